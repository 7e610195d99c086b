// The scenarios of the AI SDK, the engine of Chatbox and Cherry Studio, and Chatbox's three checks of a provider.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";
import { ask, PICTURE, report, SESSION, TAG, TOKEN, URL } from "./report.mjs";

const modelWith = (options) =>
  createOpenAICompatible({ name: "flowpod", baseURL: URL, apiKey: TOKEN, includeUsage: true, ...options })("any");
const model = modelWith({});
const responses = createOpenAI({ baseURL: URL, apiKey: TOKEN }).responses("any");
const user = (content) => [{ role: "user", content }];

async function answered(messages, options) {
  const result = await generateText({ model, messages, ...options });
  return {
    text: result.text,
    finish: result.finishReason,
    tokens: result.usage.totalTokens,
    reasoning: result.reasoningText ?? "",
  };
}

async function streamed(messages, options, limit = Infinity) {
  const leave = new AbortController();
  const texts = [];
  let finish, tokens, reasoning = "", error = "";
  const { fullStream } = streamText({ model, messages, abortSignal: leave.signal, onError() {}, ...options });
  for await (const part of fullStream) {
    if (part.type === "text-delta") texts.push(part.text);
    if (part.type === "reasoning-delta") reasoning += part.text;
    if (part.type === "finish") [finish, tokens] = [part.finishReason, part.totalUsage.totalTokens];
    if (part.type === "error") error = part.error.message ?? String(part.error);
    if (texts.length >= limit) leave.abort();
  }
  return { text: texts.join(""), several: texts.length > 1, finish, tokens, reasoning, error };
}

async function refused(messages, options) {
  try {
    await generateText({ model, messages, ...options });
  } catch (error) {
    return { error: error.message, status: error.statusCode };
  }
  return { error: "" };
}

async function session() {
  const named = modelWith({ headers: { "Chat-Session-Id": SESSION } });
  await generateText({ model: named, messages: user(`before ${TAG}`) });
  return answered(user(ask("echo", "session")), { model: named });
}

async function responseReply() {
  // Without an id of the response before, it names that response's items by their ids.
  const before = user(`before ${TAG}`);
  const first = await generateText({ model: responses, messages: before });
  const next = user(ask("echo", "response_reply"));
  return answered([...before, ...first.response.messages, ...next], { model: responses });
}

const picture = (text) => user([{ type: "text", text }, { type: "image", image: PICTURE }]);
const conversation = [...user(`first ${TAG}`), { role: "assistant", content: "fine" }, ...user(ask("echo", "turns"))];
const tools = {
  get_weather: tool({
    description: "The weather of a city.",
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  }),
};

await report({
  whole: () => answered(user(ask("echo", "whole")), { temperature: 0.25, maxOutputTokens: 50 }),
  stream: () => streamed(user(ask("echo", "stream"))),
  turns: () => answered(conversation),
  image: () => answered(picture(ask("echo", "image"))),
  inputs: () => answered(user(ask("echo", "inputs")), { providerOptions: { flowpod: { inputs: { city: "Rome" } } } }),
  session,
  thinking: () => streamed(user(ask("reasoning", "thinking"))),
  token: () => refused(user(ask("echo", "token")), { model: modelWith({ apiKey: "wrong" }) }),
  invalid: () => refused([...user(ask("echo", "invalid")), { role: "assistant", content: "no" }]),
  failed: () => refused(user(ask("fail:500", "failed"))),
  failed_stream: () => streamed(user(ask("fail:500", "failed_stream"))),
  middle: () => streamed(user(ask("break-off", "middle"))),
  cancel: () => streamed(user(ask("endless", "cancel")), {}, 4),
  response: () => answered(user(ask("echo", "response")), { model: responses }),
  response_stream: () => streamed(user(ask("echo", "response_stream")), { model: responses }),
  response_thinking: () => streamed(user(ask("reasoning", "response_thinking")), { model: responses }),
  response_middle: () => streamed(user(ask("break-off", "response_middle")), { model: responses }),
  response_reply: responseReply,
  response_image: () => answered(picture(ask("echo", "response_image")), { model: responses }),
  response_failed: () => refused(user(ask("fail:500", "response_failed")), { model: responses }),
  check_text: () => streamed(user(ask("echo", "check_text"))),
  check_vision: () => streamed(picture(ask("echo", "check_vision"))),
  check_tools: () => streamed(user(ask("echo", "check_tools")), { tools }),
});
