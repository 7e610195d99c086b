// The scenarios of the openai package for JavaScript.

import OpenAI from "openai";
import { ask, PICTURE, report, SESSION, TAG, TOKEN, URL } from "./report.mjs";

const clientWith = (options) => new OpenAI({ baseURL: URL, apiKey: TOKEN, ...options });
const client = clientWith({});
const user = (text) => [{ role: "user", content: text }];
const create = (messages, more) => client.chat.completions.create({ model: "any", messages, ...more });

function answered(completion) {
  const [choice] = completion.choices;
  return { text: choice.message.content, finish: choice.finish_reason, tokens: completion.usage.total_tokens };
}

async function streamed(question, more) {
  const texts = [];
  let finish, tokens, reasoning = "", error = "";
  try {
    for await (const chunk of await create(user(question), { stream: true, ...more })) {
      const [choice] = chunk.choices;
      if (choice?.delta.content) texts.push(choice.delta.content);
      reasoning += choice?.delta.reasoning_content ?? "";
      finish = choice?.finish_reason ?? finish;
      tokens = chunk.usage?.total_tokens ?? tokens;
    }
  } catch (caught) {
    error = caught.message;
  }
  return { text: texts.join(""), several: texts.length > 1, finish, tokens, reasoning, error };
}

async function refused(messages, options) {
  try {
    await clientWith(options).chat.completions.create({ model: "any", messages });
  } catch (error) {
    return { error: error.message, status: error.status };
  }
  return { error: "" };
}

async function session() {
  const named = clientWith({ defaultHeaders: { "Chat-Session-Id": SESSION } });
  await named.chat.completions.create({ model: "any", messages: user(`before ${TAG}`) });
  return answered(await named.chat.completions.create({ model: "any", messages: user(ask("echo", "session")) }));
}

async function cancel() {
  let text = "";
  const stream = await create(user(ask("endless", "cancel")), { stream: true });
  for await (const chunk of stream) {
    text += chunk.choices[0].delta.content;
    if (text.length > 15) break;
  }
  return { text };
}

const picture = [{ type: "text", text: ask("echo", "image") }, { type: "image_url", image_url: { url: PICTURE } }];
const conversation = [...user(`first ${TAG}`), { role: "assistant", content: "fine" }, ...user(ask("echo", "turns"))];

await report({
  whole: async () => answered(await create(user(ask("echo", "whole")), { temperature: 0.25, max_tokens: 50 })),
  stream: () => streamed(ask("echo", "stream"), { stream_options: { include_usage: true } }),
  turns: async () => answered(await create(conversation)),
  image: async () => answered(await create(user(picture))),
  inputs: async () => answered(await create(user(ask("echo", "inputs")), { inputs: { city: "Rome" } })),
  session,
  thinking: () => streamed(ask("reasoning", "thinking")),
  models: async () => ({ ids: (await client.models.list()).data.map((model) => model.id) }),
  token: () => refused(user(ask("echo", "token")), { apiKey: "wrong" }),
  invalid: () => refused([...user(ask("echo", "invalid")), { role: "assistant", content: "no" }]),
  failed: () => refused(user(ask("fail:500", "failed"))),
  failed_stream: () => streamed(ask("fail:500", "failed_stream")),
  middle: () => streamed(ask("break-off", "middle")),
  cancel,
});
