#!/usr/bin/env bash
# Installs anvil, the chain for development and tests, with npm, and prints the path of its program.
#
#   scripts/anvil.sh
#
# chain/anvil/ pins the version. It goes to .aos/anvil, nowhere else, and none of the package's scripts run; a second
# call installs nothing. Needs node 20 or newer with npm.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  printf 'anvil: %s\n' "$*" >&2
  exit 1
}

command -v npm >/dev/null && command -v node >/dev/null || fail "npm is missing, which installs anvil. Install Node.js 20 or newer:
  Ubuntu, Debian:  sudo apt-get install nodejs npm
  Fedora:          sudo dnf install nodejs npm
  macOS:           brew install node
Everything but a local chain works without it."

checksum() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

digest="$(cat chain/anvil/package.json chain/anvil/package-lock.json | checksum | cut -c 1-16)"
folder="$PWD/.aos/anvil/$digest"

# anvil's program comes in a package of its own for each platform, named as node names it but for x64.
platform="$(node -p '`${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`')"
package="@foundry-rs/anvil-$platform"
program="$folder/node_modules/$package/bin/anvil"

if [[ ! -x "$program" ]]; then
  mkdir -p .aos/anvil
  fresh="$(mktemp -d .aos/anvil-XXXXXX)"
  trap 'rm -rf "$fresh"' EXIT
  cp chain/anvil/package.json chain/anvil/package-lock.json "$fresh"
  quiet=(--no-audit --no-fund --ignore-scripts --loglevel=error)
  # Not `npm ci`, which wants every platform in the lock file; what the file has is checked by its hash all the same.
  npm install --prefix "$fresh" --no-save "${quiet[@]}" >&2 || fail "npm could not install it; its message is above"
  if [[ ! -x "$fresh/node_modules/$package/bin/anvil" ]]; then
    # It is optional to npm, which leaves it out, saying nothing, also when its hash is wrong.
    ! grep -qF "\"node_modules/$package\"" chain/anvil/package-lock.json ||
      fail "npm found no $package that has the hash in chain/anvil/package-lock.json"
    # Of other platforms than the one it was made on, the lock file knows only the version.
    version="$(node -p 'require("./chain/anvil/package.json").dependencies["@foundry-rs/anvil"]')"
    npm install --prefix "$fresh" --no-save "${quiet[@]}" "$package@$version" >&2 ||
      fail "there is no anvil $version for $platform, or npm could not install it; its message is above"
  fi
  # Another call may have been quicker: both are the same.
  [[ -d "$folder" ]] || mv "$fresh" "$folder"
fi

echo "$program"
