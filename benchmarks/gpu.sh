#!/bin/bash
# Measures training on one GPU (on CPU with --tiny) and leaves gpu.json in the folder OUT; benchmarks/README.md.
#     OUT=DIR benchmarks/gpu.sh [--tiny] [--limit SECONDS] [--only SECTION …]
# PYTHON: the interpreter that has torch (python3). WHEELS: a folder with the packages that it lacks (.whl), or none.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-$root/.whl}
export OUT=${OUT:-$root/benchmarks/out}
mkdir -p "$OUT"
if compgen -G "$wheels/*.whl" > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
  export PYTHONPATH=$site
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
cd "$root"
"$python" -m benchmarks.gpu.run --out "$OUT" "$@"
