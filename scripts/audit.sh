#!/usr/bin/env bash
# Looks all pinned packages up in PyPI's database of known vulnerabilities, with pip-audit; fails for a finding that
# scripts/audit.py does not name with a reason. Where that database cannot be reached it says so: SKIPPED, status 0.
#
#   scripts/audit.sh
#
# pip-audit lives in an environment of its own, .aos/audit, made at the first run from requirements/audit.txt, every
# package pinned by its hash.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

auditor=.aos/audit
digest="$(cat requirements/audit.txt - <<<"$PWD" | sha256sum | cut -d ' ' -f 1)"

if [[ "$(cat "$auditor/aos-setup" 2>/dev/null || true)" != "$digest" ]]; then
  echo "audit: making $auditor" >&2
  rm -rf "$auditor"
  mkdir -p .aos
  "${PYTHON:-.venv/bin/python}" -m venv "$auditor"
  "$auditor/bin/pip" --disable-pip-version-check --no-input install --quiet --require-hashes -r requirements/audit.txt
  echo "$digest" >"$auditor/aos-setup"
fi

exec "$auditor/bin/python" scripts/audit.py "$@"
