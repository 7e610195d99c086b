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

const respond = (input, more) => client.responses.create({ model: "any", input, ...more });

function responded(response) {
  const thoughts = response.output.filter((item) => item.type === "reasoning").flatMap((item) => item.summary);
  return {
    text: response.output_text,
    finish: response.status,
    tokens: response.usage?.total_tokens,
    reasoning: thoughts.map((part) => part.text).join(""),
    error: response.error?.message ?? "",
  };
}

async function responseStream(question) {
  const texts = [];
  let last;
  for await (const event of client.responses.stream({ model: "any", input: question })) {
    if (event.type === "response.output_text.delta") texts.push(event.delta);
    last = event;
  }
  return { ...responded(last.response), text: texts.join(""), several: texts.length > 1 };
}

async function responseReply() {
  const first = await respond(`before ${TAG}`);
  return responded(await respond(ask("echo", "response_reply"), { previous_response_id: first.id }));
}

async function responseFailed() {
  try {
    await respond(ask("fail:500", "response_failed"));
  } catch (error) {
    return { error: error.message, status: error.status };
  }
  return { error: "" };
}

async function responseKept() {
  const made = await respond(ask("echo", "response_kept"));
  const kept = await client.responses.retrieve(made.id);
  await client.responses.delete(made.id);
  try {
    await client.responses.retrieve(made.id);
  } catch (error) {
    return error.status === 404 ? responded(kept) : { error: error.message };
  }
  return { error: "it is still there" };
}

const later = async (response) => {
  await new Promise((done) => setTimeout(done, 100));
  return client.responses.retrieve(response.id);
};

async function responseBackground() {
  let response = await respond(ask("echo", "response_background"), { background: true });
  while (["queued", "in_progress"].includes(response.status)) response = await later(response);
  return responded(response);
}

async function responseFollowed() {
  let first, last;
  for await (const event of await respond(ask("echo", "response_followed"), { background: true, stream: true })) {
    first = event;
    break;
  }
  const query = { stream: true, starting_after: first.sequence_number };
  for await (const event of await client.responses.retrieve(first.response.id, query)) last = event;
  return { ...responded(last.response), text: last.response.output[0].content[0].text };
}

async function responseCancelled() {
  let response = await respond(ask("endless", "response_cancelled"), { background: true });
  while (response.output.length === 0) response = await later(response);
  const cancelled = await client.responses.cancel(response.id);
  return { text: cancelled.output[0].content[0].text, finish: cancelled.status };
}

const picture = [{ type: "text", text: ask("echo", "image") }, { type: "image_url", image_url: { url: PICTURE } }];
const seen = [
  { type: "input_text", text: ask("echo", "response_image") },
  { type: "input_image", image_url: PICTURE, detail: "auto" },
];
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
  response: async () => responded(await respond(ask("echo", "response"))),
  response_stream: () => responseStream(ask("echo", "response_stream")),
  response_thinking: () => responseStream(ask("reasoning", "response_thinking")),
  response_middle: () => responseStream(ask("break-off", "response_middle")),
  response_reply: responseReply,
  response_image: async () => responded(await respond([{ role: "user", content: seen }])),
  response_failed: responseFailed,
  response_kept: responseKept,
  response_background: responseBackground,
  response_followed: responseFollowed,
  response_cancelled: responseCancelled,
});
