#!/bin/sh
# Renews both locks; run it after changing dependencies in pyproject.toml. Needs uv.
set -eu
cd "$(dirname "$0")/.."
lock="uv pip compile --quiet --universal --generate-hashes --python-version 3.11
  --no-header --no-emit-index-url --no-emit-find-links --no-annotate --no-strip-extras --extra build"
$lock pyproject.toml --output-file requirements/runtime.txt "$@"
$lock pyproject.toml --extra dev --constraint requirements/runtime.txt --output-file requirements/dev.txt "$@"
