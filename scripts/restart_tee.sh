#!/usr/bin/env bash
# Ends an enclave that scripts/run_tee.sh started, if it still runs, and starts it again with the same image and options.
#
#   scripts/restart_tee.sh [--if-unhealthy] [--cid N] [--wait SECONDS]
#
#   --if-unhealthy  only when it has ended, or gives no good attestation in three tries: for a timer (docs/operator-guide.md)
#   --cid N         which enclave (default 15)
#   --wait SECONDS  how long it may take until it attests to itself (default 600); a younger one counts as starting
#
# A restarted enclave makes fresh keys. Prompts that were sealed to the old ones must be sealed again; other jobs that it had are
# retried by the dispatcher elsewhere.
set -euo pipefail

# shellcheck source=scripts/tee_lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/tee_lib.sh"

only_unhealthy=no patience=600 wanted=15

usage() {
  sed -nE '2,/^set /{/^set /d; s/^# ?//; p}' "${BASH_SOURCE[0]}"
}

read_arguments() {
  while (($#)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --if-unhealthy) only_unhealthy=yes ;;
      --cid | --wait)
        (($# > 1)) || wrong_use "$1 needs a value"
        if [[ "$1" == --cid ]]; then
          check_number "$1" "$2" 4 999999999 && wanted="$2"
        else
          check_number "$1" "$2" 1 86400 && patience="$2"
        fi
        shift
        ;;
      *) wrong_use "unknown argument $1; --help lists them" ;;
    esac
    shift
  done
}

# Whether the running enclave can be left alone. Without AOS here nobody can ask it, and running is all there is to see.
is_healthy() {
  local age=$(($(date +%s) - started)) tries
  for tries in 1 2 3; do
    [[ -x "$aos" ]] || return 0
    attests >"$here/attest.log" 2>&1 && return 0
    ((age >= patience)) || { say "it gives no good attestation yet, $age s after its start: left alone until $patience s" && return 0; }
    say "no good attestation ($tries of 3): $(tail -n 1 "$here/attest.log")"
    sleep "$pause"
  done
  return 1
}

main() {
  read_arguments "$@"
  need_program nitro-cli
  need_program python3
  here="$state/$wanted"
  load_options
  lock
  find_enclave RUNNING
  if [[ "$only_unhealthy" == yes && -n "$id" ]] && is_healthy; then
    return
  fi
  find_enclave RUNNING TERMINATING
  if [[ -n "$id" ]]; then
    end_enclave
  else
    say "no enclave with CID $cid runs: it crashed, or was ended"
  fi
  start_enclave
  wait_until_it_attests "$patience"
  say "the enclave is at work again, with fresh keys"
}

main "$@"
