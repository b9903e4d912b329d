// A client in TypeScript, with fetch alone: calibrate a model on labelled rows, then ask for predictions.
//
//     node client.ts m.onnx rows.csv mine '[[0.3, -1.2, 0.8, 0.1]]'
//
// Node runs it as it is from 22.18 on; FEDLAS_URL names another service than http://127.0.0.1:8000, FEDLAS_API_KEY its
// key. All fields, with types that are generated: openapi/openapi.json (`npx openapi-typescript`).
import { openAsBlob } from "node:fs";
import { basename } from "node:path";
import { env, argv } from "node:process";

type Job = { id: string; status: string; verdict: string | null; error: { code: string; message: string } | null };
type Prediction = { label: string; confidence: number; abstain: boolean };
type Answer = { model: { id: string; version: number; calibrated: boolean }; predictions: Prediction[] };

const url = env.FEDLAS_URL ?? "http://127.0.0.1:8000";
const RETRIES = 3;

/** A refusal (RFC 9457): `code` is stable and for programs, the message for people. */
class Refused extends Error {
  status: number;
  code: string;

  constructor(status: number, code: string, detail: string) {
    super(`${status} ${code}: ${detail}`);
    this.status = status;
    this.code = code;
  }
}

/** The answer of the service; 429 and 503 are tried again as `Retry-After` says, within `seconds` for each try. */
async function ask<T>(path: string, seconds: number, init: RequestInit = {}): Promise<T> {
  const headers = new Headers(init.headers);
  if (env.FEDLAS_API_KEY) headers.set("Authorization", `Bearer ${env.FEDLAS_API_KEY}`);
  for (let tries = 0; ; tries++) {
    const answer = await fetch(url + path, { ...init, headers, signal: AbortSignal.timeout(1000 * seconds) });
    if (answer.ok) return (await answer.json()) as T;
    const wait = Number(answer.headers.get("Retry-After")) || 1;
    if (![429, 503].includes(answer.status) || tries === RETRIES) {
      const problem = await answer.json().catch(() => ({ code: "no_problem", detail: answer.statusText }));
      throw new Refused(answer.status, problem.code, problem.detail);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
  }
}

/** A job on files that go along, at its end. */
async function calibrate(model: string, rows: string, options: object): Promise<Job> {
  const form = new FormData();
  form.append("model", await openAsBlob(model), basename(model));
  form.append("dataset", await openAsBlob(rows), basename(rows));
  form.append("dataset_options", JSON.stringify({ seen_by_model: "no" }));
  form.append("job", JSON.stringify(options));
  // With a key a second try creates nothing twice.
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  let job = await ask<Job>("/v1/jobs", 600, { method: "POST", body: form, headers });
  console.error(`${job.id} is created: ${url}/jobs/${job.id}`);
  while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
    job = await ask<Job>(`/v1/jobs/${job.id}?wait=60`, 90);
  }
  if (job.error) throw new Error(`${job.id} failed: ${job.error.code}: ${job.error.message}`);
  return job;
}

const [model, rows, name, inputs] = argv.slice(2);
const job = await calibrate(model, rows, { publish_as: name, method: "post_hoc" });
console.error(`verdict: ${job.verdict}`);
const answer = await ask<Answer>(`/v1/models/${encodeURIComponent(name)}/predict`, 10, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ inputs: JSON.parse(inputs), abstain_below: 0.9 }),
});
for (const { label, confidence, abstain } of answer.predictions) {
  console.log(`${abstain ? "ask a person" : label}\t${confidence.toFixed(3)}`);
}
