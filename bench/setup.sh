#!/usr/bin/env bash
# The peers' own environment: .cache/bench/trl. Sartor's side runs in the environment that runs the benchmark.
# torch first and exactly so: resolved together with the rest, pip may choose a build for a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.cache/bench/trl
test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet torch==2.13.0
"$venv/bin/pip" install --quiet "trl==1.16.*" transformers==5.23.0 peft==0.21.2 datasets accelerate
"$venv/bin/pip" freeze > "$venv/installed.txt"

# The text of the workload `code`: one pinned package, read as files and never imported.
"$venv/bin/pip" install --quiet --no-deps --upgrade --target .cache/bench/sources networkx==3.6.1
