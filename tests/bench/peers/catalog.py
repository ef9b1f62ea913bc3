"""The contenders. Each is set up as its own documentation recommends for throughput on two cores, and each sentence
says what it does not do for a job that another one here does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.bench.peers.contender import APPS, ONE_BY_ONE, Contender
from tests.bench.peers.environments import CELERY_PINS
from tests.bench.peers.ours import DOORS, Embedded, Servers
from tests.bench.peers.peer import NodePeer, Peer
from tests.bench.peers.targets import ONE

# Where calls in flight are threads, 256 of them would measure the interpreter's lock.
THREADS = (("one", 1), ("one", 32))

TASKIQ_WORKER = (
    *("taskiq", "worker", "taskiq_app:broker", "--workers", "2", "--max-async-tasks", "100"),
    *("--max-prefetch", "100", "--no-parse", "--log-level", "WARNING"),
)

SERVERS = Servers(
    name="selfheal",
    omits="Nothing is left out: row, confirm, status, outcome, late acknowledgement, fenced claims, breakers.",
    setup="jobapi, control plane and a worker of 2 processes (a core each) of 250 slots; everything else as it "
    "comes. Submits are single SubmitJob calls, BatchSubmitJobs, POST /jobs, or those of our Python client, whose "
    "concurrent submits share calls: the latter while workers run.",
    servers=("rabbitmq", "postgres", "redis"),
    submits=DOORS,
    fill=("many", 4),
    live=("own", 32),
    workers=2,
    settings={"WORKER_CONCURRENCY": "250", "WORKER_MAX_CONCURRENCY": "500"},
)
SINGLE = replace(
    SERVERS,
    name=ONE,
    setup="The same with a worker of one process: it leaves a core to the servers, and nobody shares its "
    "batches.",
    submits=(),
    workers=1,
)
EMBEDDED = Embedded(
    name="selfheal dev",
    servers=(),
    omits="The same with one process and one file: no second machine.",
    setup="One process with its SQLite file, reached over gRPC; everything as it comes.",
    submits=DOORS,
    share=0.5,
    fill=("many", 4),
    live=("own", 32),
)
CELERY = Peer(
    name="Celery",
    omits="No record of a job, no confirm of a submit (the default), and it acknowledges before it runs: a crash "
    "loses what was running.",
    setup="RabbitMQ, durable classic queue, results ignored. No-op jobs: prefork with 2 processes; I/O: gevent with "
    "100 greenlets; prefetch multiplier 64 and no gossip, mingle or heartbeat, as its optimizing guide says for many "
    "short tasks.",
    environment="celery",
    pins=CELERY_PINS,
    servers=("rabbitmq",),
    submits=THREADS,
    share=0.5,
    fill=("one", 1),
    live=("one", 1),
    client=("python", "-m", "celery_app"),
    workers={
        task: [
            (
                *("celery", "-A", "celery_app", "worker", "--loglevel", "WARNING", "--without-gossip"),
                *("--without-mingle", "--without-heartbeat", *pool),
            )
        ]
        for task, pool in (("noop", ("-P", "prefork", "-c", "2")), ("io", ("-P", "gevent", "-c", "100")))
    },
)
DRAMATIQ = Peer(
    name="Dramatiq",
    omits="No record of a job, no status, no confirm of a submit (the default); it does acknowledge late.",
    setup="RabbitMQ, durable classic queue, its default middleware, 2 processes (a core each) of 8 threads (its "
    "default); 32 threads for I/O.",
    environment="dramatiq",
    pins=("dramatiq[rabbitmq]==2.2.1",),
    servers=("rabbitmq",),
    submits=THREADS,
    fill=("one", 1),
    live=("one", 1),
    client=("python", "-m", "dramatiq_app"),
    workers={
        task: [("dramatiq", "dramatiq_app", "--processes", "2", "--threads", threads)]
        for task, threads in (("noop", "8"), ("io", "32"))
    },
)
DRAMATIQ_WIDE = replace(
    DRAMATIQ,
    name="Dramatiq (prefetch 200)",
    setup="The same with dramatiq_queue_prefetch=200, where its default is twice the threads.",
    settings={"dramatiq_queue_prefetch": "200"},
)
TASKIQ = Peer(
    name="taskiq",
    omits="No record of a job, no status (no result backend); submits are confirmed, acknowledged after the run.",
    setup="taskiq-aio-pika, its quorum queue, 2 worker processes of 100 coroutines each on uvloop (its defaults), "
    "qos raised from 10 to 200 and prefetch to 100 for short tasks, arguments not parsed by pydantic.",
    environment="taskiq",
    pins=("taskiq[uv]==0.13.0", "taskiq-aio-pika==0.6.1", "uvloop==0.23.0"),
    servers=("rabbitmq",),
    fill=("one", 256),
    client=("python", "-m", "taskiq_app"),
    workers={task: [TASKIQ_WORKER] for task in ("noop", "io")},
)
ARQ = Peer(
    name="arq",
    omits="Jobs live in Redis, written to its file once a second: the last second can be lost; results are not kept.",
    setup="Redis with an append-only file; one process of 100 coroutines on uvloop (a second one gains little: "
    "both fetch the same jobs), polling every 10 ms (500 ms unless told, which would bound the drain).",
    environment="arq",
    pins=("arq==0.28.0", "uvloop==0.23.0"),
    servers=("redis",),
    share=0.4,
    client=("python", "-m", "arq_app"),
    workers={task: [("arq", "arq_app.WorkerSettings")] for task in ("noop", "io")},
)
BULLMQ = NodePeer(
    name="BullMQ",
    omits="Jobs live in Redis, written to its file once a second: the last one can be lost; done jobs are removed.",
    setup="Redis with an append-only file, as its guide for production says; one Node process of concurrency 100, "
    "done jobs removed at once.",
    environment="bullmq",
    pins=("bullmq@6.7.0", "ioredis@6.0.0"),
    servers=("redis",),
    submits=(*ONE_BY_ONE, ("many", 4)),
    share=2.0,
    fill=("many", 4),
    client=("node", str(APPS / "bullmq_client.cjs")),
    workers={task: [("node", str(APPS / "bullmq_worker.cjs"))] for task in ("noop", "io")},
    settings={"BENCH_CONCURRENCY": "100"},
)
PROCRASTINATE = Peer(
    name="procrastinate",
    omits="No result; row, status and outcome are as durable as ours, fetched and finished job by job.",
    setup="PostgreSQL, psycopg's compiled driver, one worker process of 50 coroutines on uvloop.",
    environment="procrastinate",
    pins=("procrastinate==3.10.0", "psycopg[binary]==3.3.4", "uvloop==0.23.0"),
    servers=("postgres",),
    submits=(*ONE_BY_ONE, ("many", 4)),
    share=0.25,
    fill=("many", 4),
    prepare=("python", "-m", "procrastinate_app", "schema"),
    client=("python", "-m", "procrastinate_app"),
    workers={
        task: [("procrastinate", "--app", "procrastinate_app.app", "worker", "--concurrency", "50")]
        for task in ("noop", "io")
    },
)
PEERS: Sequence[Contender] = (CELERY, DRAMATIQ, DRAMATIQ_WIDE, TASKIQ, ARQ, BULLMQ, PROCRASTINATE)
ALL: Sequence[Contender] = (SERVERS, SINGLE, EMBEDDED, *PEERS)
