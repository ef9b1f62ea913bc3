#!/bin/sh
# All static checks. Every check runs even when an earlier one failed, so that one run names everything.
set -u
cd "$(dirname "$0")/.." || exit 1
PATH="$PWD/.venv/bin:$PATH"
export PATH

failed=""
check() {
    name=$1
    shift
    printf -- '-- %s\n' "$name"
    "$@" || failed="$failed, $name"
}

check "ruff" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
check "imports" lint-imports --no-cache
check "protos" sh scripts/check-protos.sh
check "deployment" sh scripts/check-deploy.sh

if [ -n "$failed" ]; then
    echo "lint failed: ${failed#, }" >&2
    exit 1
fi
echo "lint: all is well"
