#!/usr/bin/env bash
# Makes what the compose file and the Kubernetes manifests need beside themselves: keys, passwords, and settings with both in them.
#
#   deploy/prepare.sh [FOLDER]      (default: deploy/secrets)
#
# Everything is made once, in files that only you may read; a second run changes nothing that is there. Needs the command `aos`
# (scripts/setup.sh makes .venv/bin/aos). Print addresses again with: aos keys show FILE --password-file FILE
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
secrets="${1:-$here/secrets}"
aos="$(command -v aos || true)"
[[ -n "$aos" ]] || aos="$here/../.venv/bin/aos"

if [[ ! -x "$aos" ]]; then
  echo "prepare: there is no command aos: run scripts/setup.sh first, or put aos into PATH" >&2
  exit 1
fi

umask 077
mkdir -p "$secrets"

# 192 random bits, in characters that need no quoting in URLs, SQL and configuration files.
password() {
  [[ -s "$secrets/$1" ]] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$secrets/$1"
}

keystore() {
  password "$1-keystore.password"
  [[ -s "$secrets/$1-keystore.json" ]] \
    || "$aos" keys new "$secrets/$1-keystore.json" --password-file "$secrets/$1-keystore.password" >"$secrets/$1.address"
}

# The template $1 with every ${NAME} replaced by the variable of that name.
filled() {
  local text name
  text="$(cat "$here/config/$1")"
  for name in DISPATCHER_DB_PASSWORD OPERATOR_DB_PASSWORD VALKEY_PASSWORD DISPATCHER_ADDRESS; do
    text="${text//"\${$name}"/${!name}}"
  done
  [[ -s "$secrets/$1" ]] || printf '%s\n' "$text" >"$secrets/$1"
}

for name in postgres dispatcher-db operator-db valkey; do
  password "$name.password"
done
keystore dispatcher
keystore operator

DISPATCHER_DB_PASSWORD="$(cat "$secrets/dispatcher-db.password")"
OPERATOR_DB_PASSWORD="$(cat "$secrets/operator-db.password")"
VALKEY_PASSWORD="$(cat "$secrets/valkey.password")"
DISPATCHER_ADDRESS="$(cat "$secrets/dispatcher.address")"
for name in dispatcher.yaml operator.yaml roles.sql valkey.conf; do
  filled "$name"
done

# How `operator-runner -i` gets its password without showing it in the list of processes.
[[ -s "$secrets/operator.pgpass" ]] \
  || printf 'postgres:5432:operator:operator:%s\n' "$OPERATOR_DB_PASSWORD" >"$secrets/operator.pgpass"

echo "dispatcher $DISPATCHER_ADDRESS"
echo "operator   $(cat "$secrets/operator.address")"
