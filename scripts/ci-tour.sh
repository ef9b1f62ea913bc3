#!/usr/bin/env bash
# What the documentation shows, against a system that was just started: the README's minutes, docs/grpcurl.md, the Node
# example. Own ports and an own data folder, so that it can run beside a system that is already up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
PATH="$root/.venv/bin:$root/.venv-tools/bin:$PATH"

work=$(mktemp -d)
system=
finish() {
    local status=$?
    if [[ -n $system ]]; then
        kill -TERM "$system" 2>/dev/null || true
        wait "$system" 2>/dev/null || true
    fi
    if [[ $status -ne 0 ]]; then
        echo "---- the system's log ----" >&2
        tail -n 200 "$work/log" >&2 || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

read -r JOBAPI_GRPC_PORT JOBAPI_HTTP_PORT CONTROLPLANE_GRPC_PORT CONTROLPLANE_HTTP_PORT WORKER_GRPC_PORT WORKER_HTTP_PORT \
    < <(python scripts/free_ports.py 6)
export JOBAPI_GRPC_PORT JOBAPI_HTTP_PORT CONTROLPLANE_GRPC_PORT CONTROLPLANE_HTTP_PORT WORKER_GRPC_PORT WORKER_HTTP_PORT
export SELFHEAL_API="127.0.0.1:$JOBAPI_GRPC_PORT" SELFHEAL_CONTROL="127.0.0.1:$CONTROLPLANE_GRPC_PORT"
unset DATABASE_URL RABBITMQ_URL REDIS_URL PORT

start() {
    (cd "$work" && exec selfheal dev --data "$work/data" "$@") >"$work/log" 2>&1 &
    system=$!
    for port in "$JOBAPI_HTTP_PORT" "$CONTROLPLANE_HTTP_PORT" "$WORKER_HTTP_PORT"; do
        python scripts/await_ready.py "http://127.0.0.1:$port/health/ready" "$system"
    done
}

stop() {
    kill -TERM "$system"
    local status=0
    wait "$system" || status=$?
    system=
    [[ $status -eq 0 ]] || {
        echo "selfheal dev ended with $status after SIGTERM" >&2
        exit 1
    }
}

# Only the ports differ from what is written.
moved() {
    sed -e "s/:50051\b/:$JOBAPI_GRPC_PORT/g" -e "s/:50052\b/:$CONTROLPLANE_GRPC_PORT/g" -e "s/:50053\b/:$WORKER_GRPC_PORT/g" \
        -e "s/:3000\b/:$JOBAPI_HTTP_PORT/g" -e "s/:3002\b/:$CONTROLPLANE_HTTP_PORT/g" -e "s/:3001\b/:$WORKER_HTTP_PORT/g"
}

expect() {
    grep -q "$1" "$2" || {
        echo "expected $1 in:" >&2
        cat "$2" >&2
        exit 1
    }
}

COOLDOWN_PERIOD=10 start

echo "-- README: two minutes"
tour="Two minutes: a breaker opens and heals"
python scripts/doc_blocks.py README.md bash "$tour" 1 | moved >"$work/opens.sh"
bash -euo pipefail "$work/opens.sh" | tee "$work/out"
expect '"status":"succeeded"' "$work/out"
expect '"jobType":"sms","state":"OPEN"' "$work/out"
# Twenty, and those of the five whose delay is over: all of them where this took longer than five seconds.
expect '"held":2[0-5]' "$work/out"
python scripts/doc_blocks.py README.md bash "$tour" 2 | moved >"$work/heals.sh"
bash -euo pipefail "$work/heals.sh" | tee "$work/out"
expect '"jobType":"sms","state":"CLOSED"' "$work/out"
expect '"waiting":0,"running":0,"held":0' "$work/out"
python scripts/doc_blocks.py README.md bash "$tour" 3 | moved >"$work/cli.sh"
bash -euo pipefail "$work/cli.sh"

echo "-- examples/node"
(
    cd examples/node
    npm ci --silent --no-audit --no-fund
    JOBAPI_ADDR="127.0.0.1:$JOBAPI_GRPC_PORT" node tour.mjs
)

echo "-- docs/grpcurl.md"
command -v grpcurl >/dev/null || {
    echo "there is no grpcurl here and no package of it for this platform: install it to run this check" >&2
    exit 1
}
python scripts/doc_blocks.py docs/grpcurl.md bash | moved >"$work/grpcurl.sh"
bash -euo pipefail "$work/grpcurl.sh"

echo "-- a stop that drains"
stop

echo "-- README: a third minute"
third="A third minute: a handler of your own"
python scripts/doc_blocks.py README.md python "$third" 1 >"$work/mine.py"
python scripts/doc_blocks.py README.md python "$third" 2 | moved >"$work/submit.py"
start --handlers mine
python "$work/submit.py" | tee "$work/out"
expect "Hello, Ada!" "$work/out"
stop
