#!/usr/bin/env bash
# What the documentation shows, against a system that was just started: the Node example and docs/grpcurl.md.
# Own ports and an own data folder, so that it can run beside a system that is already up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PWD/.venv-tools/bin:$PATH"

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
unset DATABASE_URL RABBITMQ_URL REDIS_URL PORT

selfheal dev --data "$work/data" >"$work/log" 2>&1 &
system=$!
for port in "$JOBAPI_HTTP_PORT" "$CONTROLPLANE_HTTP_PORT" "$WORKER_HTTP_PORT"; do
    python scripts/await_ready.py "http://127.0.0.1:$port/health/ready" "$system"
done

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
# The ```bash blocks are one script, in order; only the ports differ from what is written.
awk '/^```/ {inside = ($0 == "```bash"); next} inside' docs/grpcurl.md |
    sed -e "s/:50051\b/:$JOBAPI_GRPC_PORT/g" -e "s/:50052\b/:$CONTROLPLANE_GRPC_PORT/g" -e "s/:50053\b/:$WORKER_GRPC_PORT/g" \
        -e "s/:3000\b/:$JOBAPI_HTTP_PORT/g" -e "s/:3002\b/:$CONTROLPLANE_HTTP_PORT/g" -e "s/:3001\b/:$WORKER_HTTP_PORT/g" \
        >"$work/grpcurl.sh"
grep -q grpcurl "$work/grpcurl.sh" || {
    echo "docs/grpcurl.md shows no grpcurl command in a bash block" >&2
    exit 1
}
bash -euo pipefail "$work/grpcurl.sh"

echo "-- a stop that drains"
kill -TERM "$system"
status=0
wait "$system" || status=$?
system=
[[ $status -eq 0 ]] || {
    echo "selfheal dev ended with $status after SIGTERM" >&2
    exit 1
}
