#!/usr/bin/env bash
# Makes .aos/clients: programs of others that speak OpenAI's API, each in an environment of its own, for the tests of docs/clients.md
# (tests/acceptance/test_clients.py, which skips what is not there). They are no part of scripts/test.sh: it would take minutes.
#
#   scripts/clients.sh                 Continue's command line (needs npm) and llm, 150 MB
#   scripts/clients.sh --open-webui    Open WebUI besides, 1.3 GB, without what only local embeddings, voice and OCR need
#
# Every package is pinned by its hash in requirements/clients.*. When nothing has changed, a run takes no time.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "$*" in
  "" | --open-webui) ;;
  *)
    echo "clients: $*: unknown; allowed here: --open-webui" >&2
    exit 2
    ;;
esac

# install NAME PINS COMMAND...: runs the command, which fills .aos/clients/NAME, unless that was made of the same pins.
install() {
  local folder=".aos/clients/$1" digest
  digest="$(cat "$2" - <<<"$PWD" | sha256sum | cut -d ' ' -f 1)"
  shift 2
  [[ "$(cat "$folder/aos-setup" 2>/dev/null || true)" != "$digest" ]] || return 0
  echo "clients: making $folder" >&2
  rm -rf "$folder"
  mkdir -p .aos/clients
  "$@" "$folder"
  echo "$digest" >"$folder/aos-setup"
}

python_packages() {
  "${PYTHON:-.venv/bin/python}" -m venv "$2"
  # Open WebUI asks for more than its list has, and starts without: no dependency is followed, all are listed.
  "$2/bin/pip" --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes -r "$1"
}

npm_packages() {
  mkdir "$2"
  cp "$1/package.json" "$1/package-lock.json" "$2"
  npm ci --prefix "$2" --no-audit --no-fund --ignore-scripts --loglevel=error
}

pins=requirements/clients
install llm $pins.txt python_packages $pins.txt
install npm $pins.npm/package-lock.json npm_packages $pins.npm
[[ "$*" != --open-webui ]] || install open-webui $pins.open-webui.txt python_packages $pins.open-webui.txt
