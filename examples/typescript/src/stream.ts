/**
 * Streams a file of inputs, `[T, F]`, through one session: `node dist/stream.js URL KEY MODEL SESSION INPUTS`.
 *
 * Each request carries one step and names it, so that it can be sent again until it is answered, and is applied once. The last step is
 * then repeated in the Open Inference Protocol, which is answered from the session's record. Prints one JSON object.
 */
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Reply = components["schemas"]["Reply"];
type InferReply = components["schemas"]["InferReply"];

const ATTEMPTS = 10;
const WORTH_ANOTHER_TRY = new Set([429, 500, 503, 507]);

function connect(url: string, key: string) {
  return createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });
}

type Client = ReturnType<typeof connect>;

/** Send one step of a session until it is answered. */
async function step(client: Client, model: string, id: string, at: number, generation: number, row: number[]): Promise<Reply> {
  for (let attempt = 1; ; attempt++) {
    const answer = await client
      .POST("/predictions/{model}", {
        params: { path: { model } },
        body: { inputs: [row], session: { id, step: at, generation } },
      })
      .catch(() => undefined); // the connection broke, and nobody knows whether the step was applied
    if (answer?.data !== undefined && "model" in answer.data) return answer.data;
    if (attempt === ATTEMPTS || (answer !== undefined && !WORTH_ANOTHER_TRY.has(answer.response.status))) {
      throw new Error(`step ${at}: ${answer?.response.status ?? "no answer"} ${JSON.stringify(answer?.error)}`);
    }
    await setTimeout(1000 * Number(answer?.response.headers.get("Retry-After") ?? 1));
  }
}

/** Repeat a step in the Open Inference Protocol. */
async function repeat(client: Client, model: string, id: string, at: number, row: number[]): Promise<InferReply> {
  const { data, error } = await client.POST("/v2/models/{model}/infer", {
    params: { path: { model } },
    body: {
      inputs: [{ name: "x", datatype: "FP32", shape: [1, 1, row.length], data: row }],
      parameters: { sequence_id: id, step: at },
    },
  });
  if (data === undefined || typeof data === "string") throw new Error(JSON.stringify(error));
  return data;
}

async function main(url: string, key: string, model: string, id: string, file: string): Promise<void> {
  const rows = JSON.parse(readFileSync(file, "utf8")) as number[][];
  const client = connect(url, key);
  const predictions: Reply["prediction"][] = [];
  let generation = 0;
  for (const [at, row] of rows.entries()) {
    const reply = await step(client, model, id, at, generation, row);
    generation = reply.session?.generation ?? generation;
    predictions.push(reply.prediction);
  }
  const last = rows.length - 1;
  const again = await repeat(client, model, id, last, rows[last] ?? []);
  const missed = await client.POST("/predictions/{model}", {
    params: { path: { model } },
    body: { inputs: [rows[0] ?? []], session: { id, step: last + 7 } },
  });
  console.log(
    JSON.stringify({
      predictions,
      repeated: again.outputs[0]?.data,
      replayed: again.parameters?.replayed,
      error: missed.error !== undefined && "error" in missed.error ? missed.error.error : undefined,
    }),
  );
}

const [url, key, model, id, file] = process.argv.slice(2);
if (url === undefined || key === undefined || model === undefined || id === undefined || file === undefined) {
  throw new Error("usage: node dist/stream.js URL KEY MODEL SESSION INPUTS");
}
await main(url, key, model, id, file);
