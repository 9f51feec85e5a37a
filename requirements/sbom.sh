#!/bin/sh
# A software bill of materials (CycloneDX, JSON) of what is installed:    requirements/sbom.sh FILE [VENV]
# The tool gets an environment of its own, and is in no lock.
set -eu
cd "$(dirname "$0")/.."
file=${1:?the file to write}
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/pip" install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
"$tool/bin/cyclonedx-py" environment --pyproject pyproject.toml --output-reproducible --output-file "$file" "${2:-.venv}"
