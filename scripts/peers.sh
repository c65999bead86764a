#!/usr/bin/env bash
# Makes .aos/peers, the environment of LiteLLM's proxy: tests put it between an operator and a model server, and benchmarks compare the gateway
# with it. An environment of its own, since it pins many packages that ours has in other versions.
#
#   scripts/peers.sh
#
# Every package is pinned by its hash in requirements/peers.txt. When nothing has changed, a run takes no time.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

peers=.aos/peers
digest="$(cat requirements/peers.txt - <<<"$PWD" | sha256sum | cut -d ' ' -f 1)"

[[ "$(cat "$peers/aos-setup" 2>/dev/null || true)" != "$digest" ]] || exit 0
echo "peers: making $peers" >&2
rm -rf "$peers"
mkdir -p .aos
"${PYTHON:-.venv/bin/python}" -m venv "$peers"
"$peers/bin/pip" --disable-pip-version-check --no-input install --quiet --require-hashes -r requirements/peers.txt
echo "$digest" >"$peers/aos-setup"
