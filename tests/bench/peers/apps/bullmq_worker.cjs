// BullMQ's worker: the tasks, and their notes in the format of tally.py, written out every few milliseconds.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");
const { Worker } = createRequire(path.join(process.env.BENCH_MODULES, "/"))("bullmq");

const EVERY_MS = 10;
const clock = () => (performance.timeOrigin + performance.now()) / 1000;
const url = new URL(process.env.BENCH_URL);
const file = fs.openSync(path.join(process.env.BENCH_TALLY, `${process.pid}.f64`), "w");
const ended = Buffer.alloc(24); // what a reader finds behind the last note
let notes = [];
let written = 0;

function write() {
  if (!notes.length) return;
  const bytes = Buffer.concat([Buffer.from(new Float64Array(notes).buffer), ended]);
  fs.writeSync(file, bytes, 0, bytes.length, written);
  written += bytes.length - ended.length;
  notes = [];
}
setInterval(write, EVERY_MS);

async function run(job) {
  const began = clock();
  if (job.name === "io") await new Promise((resolve) => setTimeout(resolve, 5));
  notes.push(job.data.sent, began, clock());
}

const worker = new Worker("bench", run, {
  connection: { host: url.hostname, port: Number(url.port) },
  concurrency: Number(process.env.BENCH_CONCURRENCY),
  removeOnComplete: { count: 0 },
});
process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
