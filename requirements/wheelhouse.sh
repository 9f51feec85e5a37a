#!/bin/sh
# For a closed network. Where there is one:    requirements/wheelhouse.sh FOLDER    gathers the locked wheels and this
# version's own, with their hashes. On the machine without:    sh FOLDER/install.sh VENV    installs from there alone.
# Gather with the same version of Python, on the same kind of machine.
set -eu
cd "$(dirname "$0")/.."
folder=${1:?the folder to make}
python=${PYTHON:-python3}
mkdir "$folder"
"$python" -m pip download --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
  --requirement requirements/runtime.txt --dest "$folder"
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"$python" -m venv "$build/venv"
"$build/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$folder" hatchling editables
"$build/venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$folder" .
cp requirements/runtime.txt "$folder"
cat > "$folder/install.sh" <<'INSTALL'
#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:?the virtual environment to make}
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$here" --require-hashes \
  --requirement "$here/runtime.txt"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps "$here"/research_registry-*.whl
"$venv/bin/registry" --help > /dev/null
INSTALL
(cd "$folder" && sha256sum -- *.whl runtime.txt install.sh > SHA256SUMS)
echo "$folder: $(ls "$folder"/*.whl | wc -l) wheels, $(du -sh "$folder" | cut -f1). Copy it, then: sh $folder/install.sh VENV"
