// OpenAI's Node SDK against a server: shapes and laws that hold for any model.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 120_000 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "What is 2+2?" }];
const chat = (more) => client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 24, ...more });

const whole = await chat();
const text = whole.choices[0].message.content;
assert.ok(text.length > 0 && whole.model === model);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let streamed = "";
const chunks = [];
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
  chunks.push(chunk);
  streamed += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(streamed, text);
assert.equal(chunks[0].choices[0].delta.role, "assistant");
assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
assert.deepEqual(chunks.at(-1).choices, []);
assert.ok(chunks.at(-1).usage.completion_tokens > 0);

// Breaking off a stream closes the connection, which must not disturb the next request.
for await (const _ of await chat({ stream: true })) break;

const scored = await chat({ logprobs: true, top_logprobs: 2 });
assert.ok(scored.choices[0].logprobs.content.every((token) => token.top_logprobs.length === 2 && token.logprob <= 0));

const two = await chat({ n: 2, temperature: 1, seed: 3 });
assert.deepEqual(two.choices.map((choice) => choice.index), [0, 1]);

const letters = Array.from(text);
const stop = letters.slice(letters.length / 2).slice(0, 3).join("");
const stopped = await chat({ stop: [stop] });
assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)));
assert.equal(stopped.choices[0].finish_reason, "stop");

const raw = await client.completions.create({ model, prompt: "Once upon", max_tokens: 5, echo: true, logprobs: 1 });
assert.ok(raw.choices[0].text.startsWith("Once upon"));
assert.equal(raw.choices[0].logprobs.tokens.length, raw.usage.total_tokens);

await assert.rejects(chat({ temperature: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
await assert.rejects(chat({ kv_bits: 3 }), (error) => error instanceof OpenAI.BadRequestError && error.code === "invalid_kv_bits");
await assert.rejects(client.models.retrieve("no-such-model"), (error) => error instanceof OpenAI.NotFoundError);

const { version } = JSON.parse(readFileSync(new URL("./node_modules/openai/package.json", import.meta.url)));
console.log(`openai ${version} for Node: all checks pass`);
