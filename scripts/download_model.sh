#!/usr/bin/env bash
# Download a GGUF model into models/, resumable, and keep it only when its SHA-256 is the published one.
set -euo pipefail

readonly BASE_URL="${AOS_MODEL_BASE_URL:-https://huggingface.co}"
readonly FOLDER="${AOS_MODELS_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/models}"

# name | path on the hub | bytes ("-": no exact size published, about this many follows) | SHA-256 | licence
# Digests are the ones that the hub publishes for these files and that several public projects pin.
CATALOGUE="\
llama-2-7b-chat.Q4_0.gguf|TheBloke/Llama-2-7B-Chat-GGUF/resolve/main/llama-2-7b-chat.Q4_0.gguf|-3.8 GB|9958ee9b670594147b750bbc7d0540b928fa12dcc5dd4c58cc56ed2eb85e371b|Llama 2 Community License
tinyllama-1.1b-chat-v1.0.Q4_0.gguf|TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF/resolve/main/tinyllama-1.1b-chat-v1.0.Q4_0.gguf|637699456|da3087fb14aede55fde6eb81a0e55e886810e43509ec82ecdc7aa5d62a03b556|Apache-2.0
qwen2.5-0.5b-instruct-q8_0.gguf|Qwen/Qwen2.5-0.5B-Instruct-GGUF/resolve/main/qwen2.5-0.5b-instruct-q8_0.gguf|675710816|ca59ca7f13d0e15a8cfa77bd17e65d24f6844b554a7b6c12e07a5f89ff76844e|Apache-2.0
smollm2-360m-instruct-q8_0.gguf|HuggingFaceTB/SmolLM2-360M-Instruct-GGUF/resolve/main/smollm2-360m-instruct-q8_0.gguf|386404992|48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201|Apache-2.0"
CATALOGUE="${AOS_MODEL_CATALOGUE:-$CATALOGUE}"

fail() {
  echo "download_model: $*" >&2
  exit 1
}

usage() {
  cat <<'TEXT'
Usage: scripts/download_model.sh [NAME]
       scripts/download_model.sh ORGANISATION/REPOSITORY/FILE.gguf

Without NAME, lists the models it knows. With NAME, downloads that file into models/, goes on with a
download that was cut off, checks size and SHA-256, and keeps nothing under the final name that fails.
With ORGANISATION/REPOSITORY/FILE.gguf it takes any file of the hub; nothing is published here to check it
against, so it prints the digest that it got for you to compare and to pin.

Example: scripts/download_model.sh tinyllama-1.1b-chat-v1.0.Q4_0.gguf

AOS_MODELS_DIR      another folder than models/
AOS_MODEL_BASE_URL  a mirror in place of the hub
TEXT
}

list_models() {
  printf '%-38s %10s  %-26s %s\n' NAME SIZE LICENCE SHA-256
  while IFS='|' read -r name _ size digest licence; do
    printf '%-38s %10s  %-26s %s\n' "$name" "$(readable "$size")" "$licence" "$digest"
  done <<<"$CATALOGUE"
  echo
  echo "Download one with: scripts/download_model.sh NAME"
}

readable() {
  case "$1" in
    -*) echo "${1#-}" ;;
    *) echo "$(($1 / 1000000)) MB" ;;
  esac
}

sha256_of() {
  if command -v sha256sum >/dev/null; then
    sha256sum "$1" | cut -d' ' -f1
  else
    shasum -a 256 "$1" | cut -d' ' -f1
  fi
}

# Explain an existing file and leave; a broken one is named, never replaced.
settle_existing() {
  local file="$1" expected="$2" got
  [[ -e "$file" ]] || return 0
  got="$(sha256_of "$file")"
  if [[ -z "$expected" ]]; then
    echo "$file exists, SHA-256 $got; it was not checked against a published digest. Remove it to download it again."
  elif [[ "$got" == "$expected" ]]; then
    echo "$file exists and its SHA-256 is right: nothing to do."
  else
    fail "$file exists with SHA-256 $got, not $expected. Move it away and run this again."
  fi
  exit 0
}

fetch() {
  local url="$1" partial="$2" status=0
  echo "Downloading $url"
  curl --fail --location --continue-at - --retry 3 --connect-timeout 20 --progress-bar \
    --output "$partial" "$url" || status=$?
  case "$status" in
    0) ;;
    5 | 6 | 7 | 28 | 35) fail "cannot reach $BASE_URL (curl error $status). Is this machine on the internet? Behind a proxy, set https_proxy." ;;
    18 | 56) fail "the connection broke before the end (curl error $status). Run this again: it goes on where it stopped." ;;
    22 | 37) fail "the server refused $url: the file is not there, or it needs a login. Check the name." ;;
    23) fail "cannot write $partial: is the disk full?" ;;
    33 | 36) fail "the server cannot resume. Remove $partial and run this again." ;;
    *) fail "curl failed with error $status for $url." ;;
  esac
}

# Whether an earlier run got everything and was stopped before it could admit the file.
is_complete() {
  local partial="$1" size="$2" expected="$3"
  [[ -f "$partial" ]] || return 1
  if [[ "$size" =~ ^[0-9]+$ ]]; then
    [[ "$(wc -c <"$partial" | tr -d ' ')" -ge "$size" ]]
  else
    [[ -n "$expected" && "$(sha256_of "$partial")" == "$expected" ]]
  fi
}

# What arrived becomes the model only here. A wrong file is removed, so that the next try starts afresh.
admit() {
  local partial="$1" file="$2" size="$3" expected="$4" actual got
  actual="$(wc -c <"$partial" | tr -d ' ')"
  if [[ "$size" =~ ^[0-9]+$ && "$actual" -lt "$size" ]]; then
    fail "got $actual of $size bytes. Run this again: it goes on where it stopped."
  fi
  got="$(sha256_of "$partial")"
  if [[ -n "$expected" && "$got" != "$expected" ]]; then
    rm -f "$partial"
    fail "the SHA-256 is $got, not $expected: the file is broken or was exchanged. It was removed; nothing was kept."
  fi
  mv -n "$partial" "$file"
  [[ ! -e "$partial" ]] || fail "$file appeared meanwhile and was not overwritten; the download is $partial."
  if [[ -n "$expected" ]]; then
    echo "$file: $actual bytes, SHA-256 $got, as published."
  else
    echo "$file: $actual bytes, SHA-256 $got. NOT checked against a published digest: compare it with the hub's page."
  fi
}

download() {
  local wanted="$1" name path size digest licence
  while IFS='|' read -r name path size digest licence; do
    [[ "$name" != "$wanted" ]] || break
    name=""
  done <<<"$CATALOGUE"
  if [[ -z "$name" ]]; then
    [[ "$wanted" =~ ^([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)/([A-Za-z0-9_.-]+\.gguf)$ ]] ||
      fail "no model is called '$wanted'. Run this without a name for a list, or give ORGANISATION/REPOSITORY/FILE.gguf."
    name="${BASH_REMATCH[2]}" path="${BASH_REMATCH[1]}/resolve/main/${BASH_REMATCH[2]}"
    size="-" digest="" licence="see the page of ${BASH_REMATCH[1]}"
  fi
  settle_existing "$FOLDER/$name" "$digest"
  command -v curl >/dev/null || fail "curl is missing. Install it (Ubuntu: apt-get install curl, Fedora: dnf install curl)."
  mkdir -p "$FOLDER"
  echo "$name, licence: $licence"
  is_complete "$FOLDER/$name.part" "$size" "$digest" || fetch "$BASE_URL/$path" "$FOLDER/$name.part"
  admit "$FOLDER/$name.part" "$FOLDER/$name" "$size" "$digest"
  echo "Next: aos calibrate $FOLDER/$name   (until then verdicts on its answers are inconclusive)"
}

case "${1:-}" in
  "") list_models ;;
  -h | --help) usage ;;
  -*) usage >&2 && exit 2 ;;
  *) download "$1" ;;
esac
