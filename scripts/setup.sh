#!/usr/bin/env bash
# Makes the project's environment in .venv, with every package pinned and checked by its hash.
#
#   scripts/setup.sh [all|dev|bench|train]
#
#   all    what it takes to run everything (the default): scripts/demo.sh asks for it
#   dev    all, and the tools of the tests: scripts/test.sh asks for it
#   bench  dev, and the peers that benchmarks/ compares with
#   train  what scripts/train_demo_model.py needs (PyTorch: some gigabytes)
#
# Nothing outside this folder changes, except pip's cache. The first run compiles llama.cpp (2 to 10 minutes); pip
# keeps the result, so that a second clone takes seconds. When nothing has changed, a run takes no time.
#
#   PYTHON      the interpreter to use (default: the first of python3.11, 3.12, 3.13, 3 that is 3.11 or newer)
#   CMAKE_ARGS  llama.cpp's build flags, in place of those below; they also force a build of its own
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

profile="${1:-all}"
python="$root/.venv/bin/python"
stamp="$root/.venv/aos-setup"
log="$root/.aos/logs/setup.log"

# Built for this very processor (llama.cpp's own default, spelled out): AVX2 or AVX-512 make inference several times
# faster than a build that runs everywhere. Whoever shares one home folder among different processors must build on
# each: PIP_CACHE_DIR sets a cache for each. No multi-modal part: nothing here uses it.
default_flags="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"

fail() {
  trap - EXIT
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

say() {
  printf 'setup: %s\n' "$*" >&2
}

# What a finished setup of a profile depends on, in one line; the folder too, since a .venv cannot be moved.
digest_of() {
  cat "requirements/$1.txt" requirements/build.txt pyproject.toml - <<<"$root" | checksum | cut -d ' ' -f 1
}

checksum() {
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

# Whether .venv satisfies the profile $1 already: by itself, or by a larger one.
satisfied() {
  local candidate
  [[ -x "$python" && -f "$stamp" ]] || return 1
  for candidate in $(larger "$1"); do
    grep -qxF "$candidate $(digest_of "$candidate")" "$stamp" && return 0
  done
  return 1
}

larger() {
  case "$1" in
    all) echo all dev bench ;;
    dev) echo dev bench ;;
    *) echo "$1" ;;
  esac
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 || fail "$candidate lacks its venv module. Install it:
  Ubuntu, Debian:  sudo apt-get install $(basename "$candidate")-venv
  Fedora:          sudo dnf install $(basename "$candidate")"
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed${PYTHON:+; $PYTHON is not}. Install it, or name it: PYTHON=/path/to/python3 $0
  Ubuntu, Debian:  sudo apt-get install python3.11 python3.11-venv
  Fedora:          sudo dnf install python3.11"
}

check_compiler() {
  command -v "${CXX:-c++}" >/dev/null && command -v "${CC:-cc}" >/dev/null && return
  fail "a C and a C++ compiler are needed to build llama.cpp. Install them, then run this again:
  Ubuntu, Debian:  sudo apt-get install build-essential
  Fedora:          sudo dnf install gcc gcc-c++ make"
}

make_venv() {
  if [[ -f "$stamp" ]] && ! grep -qxF "folder $root" "$stamp"; then
    say "this folder was moved: making .venv again"
    rm -rf .venv
  fi
  [[ -x "$python" ]] && return
  local base
  base="$(find_python)"
  say "making .venv with $("$base" --version)"
  rm -rf .venv
  "$base" -m venv .venv >>"$log" 2>&1
}

pip() {
  "$python" -m pip --disable-pip-version-check --no-input "$@"
}

# Prints the requirements file $1 without ("others") or with only ("llama") the entry of llama-cpp-python.
entries() {
  awk -v want="$2" '/^[a-zA-Z0-9]/ { llama = /^llama-cpp-python==/ } (want == "llama") == (llama == 1)' "requirements/$1.txt"
}

# Reads pip's verbose output, keeps it in the log, and shows how far ninja is from its "[n/m]" lines.
show_progress() {
  local line status started=$SECONDS percent=-1 shown=-1 elapsed
  while true; do
    status=0
    IFS= read -r -t 1 line || status=$?
    if ((status == 0)); then
      printf '%s\n' "$line" >>"$log"
      [[ "$line" =~ ^\ *\[([0-9]+)/([0-9]+)\] ]] && percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2]))
    elif ((status <= 128)); then
      break # the end of the output; above 128 the second ran out
    fi
    ((percent >= 0)) || continue
    printf -v elapsed '%d:%02d' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
    if [[ -t 2 ]]; then
      printf '\rsetup: compiling llama.cpp  %3d%%  %s ' "$percent" "$elapsed" >&2
    elif ((percent / 10 > shown)); then
      shown=$((percent / 10))
      say "compiling llama.cpp  $percent%  $elapsed"
    fi
  done
  if [[ -t 2 ]] && ((percent >= 0)); then echo >&2; fi
}

# Whether the profile has llama-cpp-python and .venv does not hold that version yet, or is to hold one of other flags.
llama_is_due() {
  local wanted installed
  wanted="$(entries "$profile" llama | sed -nE 's/^llama-cpp-python==([^ ]+).*/\1/p')"
  [[ -n "$wanted" ]] || return 1
  installed="$(pip list --format freeze 2>>"$log" | sed -nE 's/^llama[_-]cpp[_-]python==//p')"
  [[ "$installed" != "$wanted" || -n "${CMAKE_ARGS:-}" ]]
}

install_llama() {
  local cache=()
  # pip's cache does not know build flags: with flags of the user's own, nothing may come out of it or go into it.
  [[ -z "${CMAKE_ARGS:-}" ]] || cache=(--no-cache-dir --force-reinstall)
  say "building llama.cpp: 2 to 10 minutes, unless pip has it from an earlier build (log: $log)"
  # Without isolation, so that its build tools are those of requirements/build.txt, checked by hash like all the rest.
  entries "$profile" llama >"$root/.aos/llama.txt"
  CMAKE_ARGS="${CMAKE_ARGS:-$default_flags}" pip install --verbose --no-build-isolation --no-deps --require-hashes \
    ${cache[@]+"${cache[@]}"} -r "$root/.aos/llama.txt" 2>&1 | show_progress
  "$python" -c 'import llama_cpp' >>"$log" 2>&1 || fail "llama.cpp was installed but does not load: see $log
  If it came from pip's cache and was built on another machine: .venv/bin/python -m pip cache remove llama_cpp_python,
  .venv/bin/python -m pip uninstall llama_cpp_python, and run this again."
}

install_everything() {
  local due=no
  if llama_is_due; then
    due=yes
    check_compiler
  fi
  pip install --quiet --require-hashes -r requirements/build.txt >>"$log" 2>&1
  say "installing $(grep -c '^[a-zA-Z0-9]' "requirements/$profile.txt") packages (profile $profile)"
  entries "$profile" others >"$root/.aos/others.txt"
  pip install --require-hashes -r "$root/.aos/others.txt" >>"$log" 2>&1
  if [[ "$due" == yes ]]; then install_llama; fi
  pip install --quiet --no-deps --no-build-isolation --editable . >>"$log" 2>&1
}

tell_failure() {
  local status=$?
  ((status == 0 || status > 128)) && return # above 128: interrupted by the user
  if [[ -s "$log" ]]; then
    printf '\n--- the end of %s ---\n' "$log" >&2
    tail -n 30 "$log" | cut -c 1-300 >&2
  fi
  say "failed. Running it again goes on where it stopped."
}

main() {
  [[ "$profile" =~ ^(all|dev|bench|train)$ ]] || fail "unknown profile '$profile': use all, dev, bench or train"
  satisfied "$profile" && return
  mkdir -p .aos/logs
  if command -v flock >/dev/null; then
    exec 9>.aos/setup.lock
    flock 9 # one setup at a time in this folder
    satisfied "$profile" && return
  fi
  : >"$log"
  make_venv
  trap tell_failure EXIT
  install_everything
  trap - EXIT
  # Every profile that was set up before stays valid: all of them pin the same versions.
  { echo "folder $root"; grep -vE "^(folder|$profile) " "$stamp" 2>/dev/null || true; echo "$profile $(digest_of "$profile")"; } >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "done in $((SECONDS / 60)):$(printf '%02d' $((SECONDS % 60)))"
}

main
