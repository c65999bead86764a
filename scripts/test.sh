#!/usr/bin/env bash
# Checks everything: format, lint, types, import contracts, compiled contracts, licences, known
# vulnerabilities of what is installed, then the unit, integration and acceptance tests. LiteLLM gets an
# environment of its own first (scripts/peers.sh): tests ask it, and through it.
#
#   scripts/test.sh                              all of it
#   scripts/test.sh tests/unit -k clock          only these tests, with any of pytest's arguments
#
# Every check runs, also after one has failed; the exit status is 0 only when all have passed. The integration tests
# start a PostgreSQL and a Valkey of their own; AOS_TEST_DATABASE_URL and AOS_TEST_REDIS_URL name others.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

started=$SECONDS
failed=()

section() {
  local name="$1" before=$SECONDS
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  if "$@"; then
    printf '=== %s: passed (%d s)\n' "$name" $((SECONDS - before))
  else
    printf '=== %s: FAILED (%d s)\n' "$name" $((SECONDS - before))
    failed+=("$name")
  fi
}

# Files are run side by side, each process with servers of its own. Integration tests flush a Redis that was named: there it is one at a time.
processors=$(nproc)
side_by_side=(-n $((processors < 4 ? processors : 4)) --dist loadfile)
on_servers=("${side_by_side[@]}")
[[ -z "${AOS_TEST_REDIS_URL:-}" ]] || on_servers=()

scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"

if (($#)); then
  section tests python -m pytest "$@"
else
  section format ruff format --check .
  section lint ruff check .
  section types mypy
  section imports lint-imports
  section contracts scripts/compile_contracts.sh --check
  section licences python scripts/licences.py --check
  section audit scripts/audit.sh
  section peers scripts/peers.sh
  section unit python -m pytest "${side_by_side[@]}" tests/unit
  section integration python -m pytest "${on_servers[@]}" tests/integration
  section acceptance python -m pytest "${side_by_side[@]}" --no-loadscope-reorder tests/acceptance
fi

total=$((SECONDS - started))
printf '\n'
if ((${#failed[@]})); then
  printf 'FAILED after %d:%02d: %s\n' $((total / 60)) $((total % 60)) "${failed[*]}"
  exit 1
fi
printf 'All passed in %d:%02d.\n' $((total / 60)) $((total % 60))
