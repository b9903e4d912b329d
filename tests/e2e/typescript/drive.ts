// Upload, job, events, report and predict, through types that openapi-typescript has made of the document.
import { readFileSync } from "node:fs";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const [url, modelFile, datasetFile] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url });

function present<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

/** The bytes as they are: generators write `format: binary` as a string. */
function raw(file: string) {
  return {
    body: readFileSync(file) as unknown as string,
    bodySerializer: (body: unknown) => body as BodyInit,
    headers: { "Content-Type": "application/octet-stream" },
  };
}

const model = present(
  await client.POST("/v1/models", { params: { query: { name: "ts" } }, ...raw(modelFile) }),
);
const dataset = present(await client.POST("/v1/datasets", raw(datasetFile)));
const ordered = present(
  await client.POST("/v1/jobs", {
    body: { model_id: model.id, dataset_id: dataset.id, method: "temperature", metadata: { from: "typescript" } },
  }),
);
let job: Pick<components["schemas"]["JobRecord"], "id" | "status" | "calibrated_model_id"> = ordered;
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  const path = { job_id: job.id };
  job = present(await client.GET("/v1/jobs/{job_id}", { params: { path, query: { wait: 30 } } }));
}
if (!job.calibrated_model_id) throw new Error(JSON.stringify(job));
const report = present(await client.GET("/v1/jobs/{job_id}/report", { params: { path: { job_id: job.id } } }));
const events = present(await client.GET("/v1/jobs/{job_id}/events", { params: { path: { job_id: job.id } } }));
if (typeof events === "string") throw new Error("a stream was not asked for");
const statuses = events.data.flatMap((event) => (event.type === "status" ? [event.data.status] : []));
const answer = present(
  await client.POST("/v1/models/{model}/predict", {
    params: { path: { model: job.calibrated_model_id } },
    body: { inputs: [new Array(64).fill(0)], top_k: 2 },
  }),
);
if (typeof answer === "string") throw new Error("npy was not asked for");
const missing = await client.GET("/v1/models/{model_id}", { params: { path: { model_id: "mdl_nothing" } } });
console.log(
  JSON.stringify({
    verdict: report.verdict,
    accuracy: report.metrics.uploaded.accuracy.value,
    statuses,
    top: answer.predictions[0].top_k?.length,
    code: missing.error?.code,
  }),
);
