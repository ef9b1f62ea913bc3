// BullMQ's client: the orders of client.py, in Node.
"use strict";
const path = require("node:path");
const readline = require("node:readline");
const { createRequire } = require("node:module");
const { Queue } = createRequire(path.join(process.env.BENCH_MODULES, "/"))("bullmq");

const BATCH = 500;
const clock = () => (performance.timeOrigin + performance.now()) / 1000;
const url = new URL(process.env.BENCH_URL);
const queue = new Queue("bench", {
  connection: { host: url.hostname, port: Number(url.port) },
  defaultJobOptions: { removeOnComplete: true },
});
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, Math.max(seconds * 1000, 0)));

const one = (task, sent) => queue.add(task, { sent });
const many = (task) => {
  const sent = clock();
  return queue.addBulk(Array.from({ length: BATCH }, () => ({ name: task, data: { sent } })));
};

async function submit({ task, door, total, width }) {
  const calls = door === "many" ? Math.ceil(total / BATCH) : total;
  let next = 0;
  const lane = async () => {
    while (next++ < calls) await (door === "many" ? many(task) : one(task, clock()));
  };
  const began = clock();
  await Promise.all(Array.from({ length: width }, lane));
  return { jobs: door === "many" ? calls * BATCH : total, began, ended: clock() };
}

async function pace({ task, total, rate }) {
  const first = clock() + 0.05;
  const calls = [];
  for (let number = 0; number < total; number++) {
    const planned = first + number / rate;
    if (planned > clock()) await sleep(planned - clock());
    calls.push(one(task, planned));
  }
  await Promise.all(calls);
  return { jobs: total, began: first, ended: clock() };
}

async function main() {
  await queue.waitUntilReady();
  console.log(JSON.stringify({ ready: true }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    console.log(JSON.stringify(await (order.do === "pace" ? pace(order) : submit(order))));
  }
  await queue.close();
}

main();
