// openai for Node and the AI SDK: `node node.mjs NAME [COLUMN…]`, a line of JSON a column, as probing.py does.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { LORALAND_URL: URL_, LORALAND_KEY: KEY, LORALAND_MODULES: MODULES, LORALAND_ADAPTER: ADAPTER = "tweet_emotion" } = process.env;
const V1 = `${URL_}/v1`;
const near = createRequire(`${MODULES}/`);
const load = (name) => import(pathToFileURL(near.resolve(name)));
const HELLO = [{ role: "user", content: "Name a colour." }];
const PERSON = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["name", "age"],
  additionalProperties: false,
};

function check(isTrue, what) {
  if (!isTrue) throw new Error(`unexpected: ${JSON.stringify(what)?.slice(0, 300)}`);
}

async function openaiNode() {
  const { default: OpenAI } = await load("openai");
  const client = new OpenAI({ baseURL: V1, apiKey: KEY, maxRetries: 0 });
  const ask = { model: "base", messages: HELLO, max_tokens: 60 };
  return {
    chat: async () => {
      for (const model of ["base", ADAPTER]) {
        const done = await client.chat.completions.create({ ...ask, model, max_tokens: 8 });
        check(done.choices[0].message.content && done._request_id, done);
      }
    },
    stream: async () => {
      const parts = [];
      const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
      for await (const part of stream) parts.push(part);
      check(parts.at(-1).usage.total_tokens > 0, parts.at(-1));
    },
    schema: async () => {
      const response_format = { type: "json_schema", json_schema: { name: "person", strict: true, schema: PERSON } };
      const done = await client.chat.completions.parse({ ...ask, response_format });
      check(done.choices[0].message.parsed.age >= 0, done);
    },
    tools: async () => {
      const tool = {
        type: "function",
        function: {
          name: "weather",
          function: ({ city }) => `sunny in ${city}`,
          parse: JSON.parse,
          description: "The weather",
          parameters: { type: "object", properties: { city: { type: "string", maxLength: 9 } }, required: ["city"] },
        },
      };
      const runner = client.chat.completions.runTools({ ...ask, tools: [tool], tool_choice: { type: "function", function: { name: "weather" } } });
      check((await runner.finalContent()) !== undefined || (await runner.allChatCompletions()).length, "no call");
    },
    n: async () => check((await client.chat.completions.create({ ...ask, n: 2, max_tokens: 4 })).choices.length === 2, "not two"),
    logprobs: async () => {
      const done = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2, max_tokens: 4 });
      check(done.choices[0].logprobs.content[0].top_logprobs.length === 2, done);
    },
    completions: async () => {
      check((await client.completions.create({ model: "base", prompt: ["Once", "Twice"], max_tokens: 4 })).choices.length === 2, "not two");
    },
    embeddings: async () => check((await client.embeddings.create({ model: "base", input: ["a", "b"] })).data.length === 2, "not two"),
    own: async () => {
      check((await client.responses.create({ model: "base", input: "Hi", max_output_tokens: 16 })).output_text, "no text");
      const stopping = await client.chat.completions.create({ ...ask, max_tokens: 400, stream: true });
      for await (const _ of stopping) break;
      const asked = { method: "OPTIONS", headers: { Origin: "https://page.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type" } };
      const told = await fetch(`${V1}/chat/completions`, asked);
      check(told.status === 204 && told.headers.get("access-control-allow-origin"), told.status);
      return "responses, abort, a browser's question (CORS_ORIGINS)";
    },
  };
}

async function aiSdk(model, own) {
  const { generateText, streamText, generateObject, embedMany, jsonSchema, tool } = await load("ai");
  return {
    chat: async () => check((await generateText({ model, prompt: "Hi", maxOutputTokens: 16, maxRetries: 0 })).text !== undefined, "no text"),
    stream: async () => {
      const done = streamText({ model, prompt: "Hi", maxOutputTokens: 16, maxRetries: 0 });
      let text = "";
      for await (const part of done.textStream) text += part;
      check(text && (await done.usage).totalTokens > 0, await done.usage);
    },
    schema: async () => {
      const done = await generateObject({ model, prompt: "Who?", schema: jsonSchema(PERSON), maxOutputTokens: 90, maxRetries: 0 });
      check(done.object.age >= 0, done.object);
    },
    tools: async () => {
      const weather = tool({ description: "Weather", inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string", maxLength: 9 } }, required: ["city"], additionalProperties: false }) });
      const done = await generateText({ model, prompt: "Oslo?", tools: { weather }, toolChoice: "required", maxOutputTokens: 90, maxRetries: 0 });
      check(done.toolCalls[0].toolName === "weather", done.toolCalls);
    },
    ...own({ generateText, embedMany }),
  };
}

async function aiCompatible() {
  const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
  const land = createOpenAICompatible({ name: "land", baseURL: V1, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true });
  return aiSdk(land("base"), ({ generateText, embedMany }) => ({
    completions: async () => check((await generateText({ model: land.completionModel("base"), prompt: "Once", maxOutputTokens: 8, maxRetries: 0 })).text, "no text"),
    embeddings: async () => check((await embedMany({ model: (land.embeddingModel ?? land.textEmbeddingModel)("base"), values: ["a", "b"], maxRetries: 0 })).embeddings.length === 2, "not two"),
    own: async () => {
      await generateText({ model: land("base"), prompt: "Hi", maxOutputTokens: 8, maxRetries: 0, providerOptions: { land: { reasoningEffort: "low" } } });
      return "reasoningEffort";
    },
  }));
}

async function aiOpenai() {
  const { createOpenAI } = await load("@ai-sdk/openai");
  const land = createOpenAI({ baseURL: V1, apiKey: KEY });
  return aiSdk(land.chat("base"), ({ generateText, embedMany }) => ({
    logprobs: async () => { await generateText({ model: land.chat("base"), prompt: "Hi", maxOutputTokens: 4, maxRetries: 0, providerOptions: { openai: { logprobs: 2 } } }); },
    completions: async () => check((await generateText({ model: land.completion("base"), prompt: "Once", maxOutputTokens: 8, maxRetries: 0 })).text, "no text"),
    embeddings: async () => check((await embedMany({ model: (land.embeddingModel ?? land.textEmbeddingModel)("base"), values: ["a", "b"], maxRetries: 0 })).embeddings.length === 2, "not two"),
    own: async () => {
      check((await generateText({ model: land("base"), prompt: "Hi", maxOutputTokens: 16, maxRetries: 0 })).text, "no text");
      return "`openai('base')`, which is responses";
    },
  }));
}

const [name, ...wanted] = process.argv.slice(2);
const columns = await { openai: openaiNode, "ai-compatible": aiCompatible, "ai-openai": aiOpenai }[name]();
for (const column of wanted.length ? wanted : Object.keys(columns)) {
  let told;
  try {
    told = { column, works: true, note: (await columns[column]()) ?? "" };
  } catch (error) {
    console.error(error);
    told = { column, works: false, note: `${error.name}: ${error.message}`.slice(0, 300) };
  }
  console.log(JSON.stringify(told));
}
