#!/usr/bin/env bash
# From an empty clone to a verified answer: makes the environment, starts the whole network on this machine, asks it
# "What is AI?", checks the evidence, and stops everything again.
#
#   scripts/demo.sh [--model PATH]      PATH: any GGUF file (default: the small demo model in models/)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

"$root/scripts/setup.sh" all
exec "$root/.venv/bin/aos" demo "$@"
