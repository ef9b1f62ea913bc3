#!/bin/sh
# Resolves requirements.lock for every platform and Python ≥ 3.11. What is locked stays unless pyproject.toml
# forbids it; to take newer releases, delete the file's lines first. No hosts or paths get into it.
set -eu
.venv-tools/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
    --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
    pyproject.toml --output-file requirements.lock
