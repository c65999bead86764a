#!/usr/bin/env bash
# Compiles chain/contracts/*.vy to chain/aos_chain/compiled/*.json (ABI and bytecode), which are committed.
# What they import lies in chain/contracts/lib and is no contract of its own.
#
#   scripts/compile_contracts.sh            compile all of them
#   scripts/compile_contracts.sh --check    change nothing; fail when what is committed is not what the source gives
#
# Vyper lives in an environment of its own, .aos/vyper, made at the first run from requirements/vyper.txt, every package
# pinned by its hash: it needs an older cbor2 than the one that reads attestation documents (docs/adr/0019).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

compiler=.aos/vyper
digest="$(cat requirements/vyper.txt - <<<"$PWD" | sha256sum | cut -d ' ' -f 1)"

if [[ "$(cat "$compiler/aos-setup" 2>/dev/null || true)" != "$digest" ]]; then
  echo "compile_contracts: making $compiler" >&2
  rm -rf "$compiler"
  mkdir -p .aos
  "${PYTHON:-.venv/bin/python}" -m venv "$compiler"
  "$compiler/bin/pip" --disable-pip-version-check --no-input install --quiet --require-hashes -r requirements/vyper.txt
  echo "$digest" >"$compiler/aos-setup"
fi

exec "$compiler/bin/python" scripts/compile_contracts.py "$@"
