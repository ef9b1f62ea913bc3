#!/bin/sh
# Style, formatting and compatibility of the protos, and whether the committed Python is what they generate.
# Needs no network. Never writes into the tree.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH

buf lint
buf format --diff --exit-code --path protos/selfheal

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# The last release's image, not a branch: compared with itself a branch is always compatible. Image against
# image, because buf counts the vendored protos as an input of their own.
buf build protos --output "$copy/now.binpb"
buf breaking "$copy/now.binpb" --against protos/baseline.binpb

buf generate --output "$copy"
if ! diff -r --exclude=__pycache__ "$copy/protos/gen/python" protos/gen/python; then
    echo "protos/gen is not what the protos generate: run 'make generate'" >&2
    exit 1
fi
