#!/usr/bin/env bash
# Pulls the images that deploy/compose.yaml builds on and runs, and writes their digests, with your user's numbers, to deploy/.env.
#
#   deploy/pin_images.sh
#
# Run it again to take up newer ones; until then, what runs is what was pulled, whatever the tags mean by now. Needs docker.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

digest() {
  docker pull --quiet "$1" >/dev/null
  docker image inspect --format '{{index .RepoDigests 0}}' "$1"
}

if [[ "$(id -u)" == 0 ]]; then
  echo "pin_images: not as root: containers run as the user who runs this, and root is the one that they must not be" >&2
  exit 1
fi

{
  echo "AOS_UID=$(id -u)"
  echo "AOS_GID=$(id -g)"
  echo "AOS_BUILDER_IMAGE=$(digest python:3.11-bookworm)"
  echo "AOS_BASE_IMAGE=$(digest python:3.11-slim-bookworm)"
  echo "AOS_POSTGRES_IMAGE=$(digest postgres:17-bookworm)"
  echo "AOS_VALKEY_IMAGE=$(digest valkey/valkey:8-bookworm)"
} >"$here/.env.new"
mv "$here/.env.new" "$here/.env"
cat "$here/.env"
