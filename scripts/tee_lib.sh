# shellcheck shell=bash
# What run_tee.sh and restart_tee.sh share: the options of an enclave, starting it, ending it, asking it. Sourced, never run.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck disable=SC2034 # the scripts choose a folder in it
state="${AOS_TEE_STATE:-$root/.aos/enclave}"
pause="${AOS_TEE_PAUSE:-3}" # seconds between two questions
aos="${AOS_COMMAND:-$root/.venv/bin/aos}"
program="$(basename "${0%.sh}")"

# Where an enclave's image, policy, options and lock are: $state/CID.
here=""

# How it is run; read from and written to $here/options. "started" is in Unix seconds.
model_name="" eif="" cpus="" memory="" cid="" port="" debug="" started="" id=""

fail() {
  printf '%s: %s\n' "$program" "$*" >&2
  exit 1
}

say() {
  printf '%s: %s\n' "$program" "$*" >&2
}

warn() {
  printf '\n%s: *** %s\n\n' "$program" "$*" >&2
}

wrong_use() {
  printf '%s: %s\n' "$program" "$*" >&2
  exit 2
}

check_number() {
  if [[ ! "$2" =~ ^[1-9][0-9]{0,8}$ ]] || (($2 < $3 || $2 > $4)); then
    wrong_use "$1 is a whole number from $3 to $4, not '$2'"
  fi
}

need_program() {
  command -v "$1" >/dev/null || fail "$1 is missing. Run scripts/init_env.sh first, and log in again after it."
}

# One instance of these scripts at a time for one enclave: a timer must not restart what is just being started.
lock() {
  mkdir -p "$here"
  exec 9>"$here/lock"
  flock --nonblock 9 || fail "another run_tee.sh or restart_tee.sh is at work in $here"
}

# Prints what the Python expression $1 makes of the JSON on standard input, which it knows as `said`.
from_json() {
  python3 -I -c 'import json, sys
said = json.load(sys.stdin)
print(eval(sys.argv[1], {"said": said, "wanted": sys.argv[2:]}))' "$@"
}

save_options() {
  local name
  for name in model_name eif cpus memory cid port debug started; do
    printf '%s=%s\n' "$name" "${!name}"
  done >"$here/options.new"
  mv "$here/options.new" "$here/options"
}

# Read, and not sourced: what stands in the file is never run.
load_options() {
  local name value
  [[ -f "$here/options" ]] || fail "no enclave was started here by scripts/run_tee.sh with this CID: $here/options is not there"
  while IFS='=' read -r name value; do
    case "$name" in
      model_name | eif | cpus | memory | cid | port | debug | started) printf -v "$name" '%s' "$value" ;;
      *) fail "$here/options has a line that is not known here: $name" ;;
    esac
  done <"$here/options"
}

# Sets id to that of the enclave with our CID in one of the states $1..., or to nothing. Not a function that prints: a failure in
# $(...) would be taken for an enclave that is not there.
find_enclave() {
  local listed
  listed="$(nitro-cli describe-enclaves)" || fail "nitro-cli describe-enclaves failed: is this user in the group ne? (scripts/init_env.sh --check)"
  id="$(from_json 'next((e["EnclaveID"] for e in said if e["EnclaveCID"] == int(wanted[0]) and e["State"] in wanted[1:]), "")' \
    "$cid" "$@" <<<"$listed")" || fail "nitro-cli describe-enclaves printed something else than enclaves: $listed"
}

start_enclave() {
  local options=(--enclave-name "aos-tee-$cid" --eif-path "$eif" --cpu-count "$cpus" --memory "$memory" --enclave-cid "$cid")
  [[ -f "$eif" ]] || fail "the image $eif is gone: build it again with scripts/run_tee.sh"
  if [[ "$debug" == yes ]]; then
    warn "DEBUG MODE: this host can read all of the enclave's memory, and its PCR0, PCR1 and PCR2 are attested as zeros, whatever
    runs in it. It proves nothing. No policy but one that says allow_debug takes it; use it to look for errors, never for work."
    options+=(--debug-mode)
  fi
  say "starting the enclave: CID $cid, $cpus CPUs, $memory MiB"
  # The process that nitro-cli leaves behind for the enclave must not keep our lock.
  nitro-cli run-enclave "${options[@]}" 9>&- || fail "nitro-cli could not start the enclave: its lines above and /var/log/nitro_enclaves say why.
  Usual causes: less CPUs or memory set aside than asked for (scripts/init_env.sh --cpus $cpus --memory $memory), or a CID that is taken."
  # shellcheck disable=SC2034 # save_options takes it by its name
  started="$(date +%s)"
  save_options
}

# Whether the enclave attests to itself, on a fresh nonce, as its own policy wants it.
attests() {
  timeout 30 "$aos" attest "vsock://$cid:$port" --model "$model_name" --policy "$here/policy.yaml"
}

wait_until_it_attests() {
  local deadline=$((SECONDS + $1))
  if [[ ! -x "$aos" ]]; then
    say "the enclave runs. AOS is not installed here (scripts/setup.sh), so ask it yourself:"
    say "  aos attest vsock://$cid:$port --model $model_name --policy $here/policy.yaml"
    return
  fi
  say "waiting until it attests to itself (the model is hashed and loaded first)"
  until attests >"$here/attest.log" 2>&1; do
    find_enclave RUNNING
    [[ -n "$id" ]] || {
      tail -n 5 "$here/attest.log" >&2
      fail "the enclave has ended by itself. $(how_to_look)"
    }
    ((SECONDS < deadline)) || {
      tail -n 5 "$here/attest.log" >&2
      fail "no good attestation after $1 s; the last answer is above. The enclave still runs. $(how_to_look)"
    }
    sleep "$pause"
  done
  cat "$here/attest.log"
}

how_to_look() {
  if [[ "$debug" == yes ]]; then
    echo "See its console: nitro-cli console --enclave-name aos-tee-$cid"
  else
    echo "Only an enclave in debug mode has a console: start it with scripts/run_tee.sh --debug, then
  nitro-cli console --enclave-name aos-tee-$cid"
  fi
}

# Ends the enclave that find_enclave found.
end_enclave() {
  local deadline=$((SECONDS + 60))
  say "ending enclave $id"
  nitro-cli terminate-enclave --enclave-id "$id" || fail "nitro-cli could not end enclave $id. As the user who started it, or as root:
  nitro-cli terminate-enclave --enclave-id $id"
  find_enclave RUNNING TERMINATING
  while [[ -n "$id" ]]; do
    ((SECONDS < deadline)) || fail "enclave $id does not end; restart nitro-enclaves-allocator, or the instance"
    sleep "$pause"
    find_enclave RUNNING TERMINATING
  done
}
