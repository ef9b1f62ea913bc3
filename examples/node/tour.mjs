// A walk through the job API: submit, submit again, wait, list, and an error read whole.
// Exits with 1 when anything is not as expected.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { errorReader } from "./errors.mjs";
import { fromStruct, toStruct } from "./struct.mjs";

const address = process.env.JOBAPI_ADDR ?? "127.0.0.1:50051";
const protos = fileURLToPath(new URL("../../protos", import.meta.url));
const thirdParty = path.join(protos, "third_party");

const definition = protoLoader.loadSync("selfheal/jobs/v1/job_service.proto", {
  includeDirs: [protos, thirdParty],
  keepCase: false,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { JobService } = grpc.loadPackageDefinition(definition).selfheal.jobs.v1;
const readError = errorReader({ thirdParty });
const client = new JobService(address, grpc.credentials.createInsecure());

function call(method, request, seconds = 10) {
  const deadline = new Date(Date.now() + seconds * 1000);
  return promisify(client[method]).call(client, request, { deadline });
}

async function refusal(method, request) {
  try {
    await call(method, request);
  } catch (error) {
    return { code: error.code, ...readError(error) };
  }
  return assert.fail(`${method} should have been refused`);
}

async function tour() {
  const payload = { to: "a@example.com", subject: "hi", body: "hello", copies: 2, tags: ["tour", null] };
  const request = { jobType: "email", payload: toStruct(payload), requestId: randomUUID(), labels: { from: "node" } };

  const { job, existed } = await call("submitJob", request);
  assert.equal(existed, false);
  assert.equal(job.jobType, "email");
  assert.deepEqual(fromStruct(job.payload), payload);
  console.log(`submitted ${job.jobId}: ${job.state}`);

  const again = await call("submitJob", request);
  assert.equal(again.existed, true);
  assert.equal(again.job.jobId, job.jobId);
  console.log("submitted again with the same request id: the same job");

  const waited = await call("waitJob", { jobId: job.jobId, timeout: { seconds: 30 } }, 40);
  assert.equal(waited.job.state, "JOB_STATE_SUCCEEDED");
  console.log(`waited: ${waited.job.state} after ${waited.job.attempts} attempt(s)`);

  const listed = await call("listJobs", { pageSize: 5, filter: 'labels.from = "node" AND job_type = "email"' });
  assert.ok(listed.jobs.some((one) => one.jobId === job.jobId));
  console.log(`listed: ${listed.jobs.length} job(s) with the label from=node`);

  const invalid = await refusal("submitJob", { jobType: "not a type", payload: toStruct({}) });
  assert.equal(invalid.code, grpc.status.INVALID_ARGUMENT);
  assert.equal(invalid.details["google.rpc.ErrorInfo"].domain, "selfheal");
  const [violation] = invalid.details["google.rpc.BadRequest"].fieldViolations;
  assert.equal(violation.field, "job_type");
  console.log(`refused: ${violation.field}: ${violation.description}`);

  const missing = await refusal("getJob", { jobId: "nonsense" });
  assert.equal(missing.code, grpc.status.NOT_FOUND);
  assert.equal(missing.details["google.rpc.ErrorInfo"].reason, "JOB_NOT_FOUND");
  console.log(`refused: ${missing.status.message}`);

  const late = await refusal("cancelJob", { jobId: job.jobId });
  assert.equal(late.code, grpc.status.FAILED_PRECONDITION);
  console.log(`refused: ${late.status.message} (${late.details["google.rpc.ErrorInfo"].reason})`);
}

try {
  await tour();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  client.close();
}
