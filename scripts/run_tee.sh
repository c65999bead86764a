#!/usr/bin/env bash
# Builds an enclave image (EIF) with one model inside, prints its measurements, and runs it in an AWS Nitro Enclave.
#
#   scripts/run_tee.sh MODEL.gguf --base IMAGE@sha256:... --builder IMAGE@sha256:... [options]
#
#   --base IMAGE      what the enclave runs on, by digest: python:3.11-slim-bookworm@sha256:...
#   --builder IMAGE   the same Python with a C++ compiler, by digest: python:3.11-bookworm@sha256:...
#   --name NAME       what jobs call the model (default: the file's name)
#   --cpus N          CPUs of the enclave (default 2; whole cores: an even number where cores have two threads)
#   --memory MiB      memory of the enclave (default: what nitro-cli demands, four times the image, and at least 2048)
#   --cid N           its address on vsock (default 15: tee_llm_cid of the operator)
#   --port N          the worker's port there (default 5005: tee_llm_port of the operator)
#   --slots N, --context N, --threads N   as of tee-worker; they are measured, too
#   --wait SECONDS    how long it may take until it attests to itself (default 600)
#   --build-only      build in .aos/enclave/build, print the measurements, and run nothing: needs no Nitro host
#   --debug           run it with a console, for looking for errors. Such an enclave proves NOTHING
#
# The model becomes a part of the image, so PCR0 and PCR2 measure its weights: another file is another enclave. Everything is
# built in a folder of its own from this checkout's files, with fixed times; docs/attestation.md says how others get the same PCRs.
set -euo pipefail

# shellcheck source=scripts/tee_lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/tee_lib.sh"

# 1980, the first time that a zip file can hold. Every file of the image has it.
readonly EPOCH=315532800
readonly IMAGE="aos-tee-worker:build"

# Of every build the same, whatever machine compiles it; llama.cpp's default would take what this very processor has. OpenMP would
# need a library that the base image lacks; llama.cpp has threads of its own.
flags="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF"
flags_x86="-DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF"
flags_arm="-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16"

model="" base="${AOS_TEE_BASE:-}" builder="${AOS_TEE_BUILDER:-}" build_only=no patience=600
cpus=2 cid=15 port=5005 debug=no
worker_options=()

usage() {
  sed -nE '2,/^set /{/^set /d; s/^# ?//; p}' "${BASH_SOURCE[0]}"
}

read_arguments() {
  while (($#)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --build-only) build_only=yes ;;
      --debug) debug=yes ;;
      --base | --builder | --name | --cpus | --memory | --cid | --port | --wait | --slots | --context | --threads)
        (($# > 1)) || wrong_use "$1 needs a value"
        take_option "$1" "$2"
        shift
        ;;
      -*) wrong_use "unknown option $1; --help lists them" ;;
      *)
        [[ -z "$model" ]] || wrong_use "one model at a time: $model or $1"
        model="$1"
        ;;
    esac
    shift
  done
}

take_option() {
  case "$1" in
    --base) base="$2" ;;
    --builder) builder="$2" ;;
    --name) model_name="$2" ;;
    --cpus) check_number "$1" "$2" 1 512 && cpus="$2" ;;
    --memory) check_number "$1" "$2" 64 16777216 && memory="$2" ;;
    --cid) check_number "$1" "$2" 4 999999999 && cid="$2" ;; # 0 to 3 are the hypervisor's and the host's
    --port) check_number "$1" "$2" 1 999999999 && port="$2" ;;
    --wait) check_number "$1" "$2" 1 86400 && patience="$2" ;;
    --slots | --context | --threads) check_number "$1" "$2" 1 99999999 && worker_options+=("$1" "$2") ;;
  esac
}

check_arguments() {
  [[ -n "$model" ]] || wrong_use "which model? scripts/run_tee.sh models/NAME.gguf (scripts/download_model.sh fetches one)"
  [[ -f "$model" ]] || fail "$model is not there. scripts/download_model.sh fetches models, aos-demo-5m.F16.gguf is in models/"
  [[ "$(head -c 4 "$model")" == GGUF ]] || fail "$model is no GGUF file"
  model_name="${model_name:-$(basename "$model")}"
  [[ "$model_name" =~ ^[A-Za-z0-9._-]{1,128}$ ]] || wrong_use "--name takes letters, digits, '.', '_' and '-', not '$model_name'"
  check_image --base "$base" python:3.11-slim-bookworm
  check_image --builder "$builder" python:3.11-bookworm
}

# shellcheck disable=SC2016 # the template in the message is docker's
# A tag can be moved to another image at any time, a digest cannot.
check_image() {
  [[ "$2" =~ @sha256:[0-9a-f]{64}$ ]] || wrong_use "$1 needs an image by digest, NAME@sha256:64 hex digits${2:+, and not '$2'}. For example:
  docker pull $3
  docker image inspect --format '{{index .RepoDigests 0}}' $3"
}

# Copies of exactly what the image is made from, with fixed modes and times, and nothing else.
stage() {
  local context="$here/context" file
  rm -rf "$context"
  mkdir -p "$context"
  while IFS= read -r file; do
    install -D -m 0644 "$root/$file" "$context/$file"
  done < <(cd "$root" && find protocol/aos_protocol service/aos_service inference/aos_inference tee_worker/aos_tee_worker \
    -type f \( -name '*.py' -o -name py.typed \) | sort)
  for file in pyproject.toml LICENSE requirements/worker.txt requirements/build.txt tee_worker/Dockerfile tee_worker/entry.py; do
    install -D -m 0644 "$root/$file" "$context/$file"
  done
  echo "AOS" >"$context/README.md" # the package's description; the real one may change without changing the enclave
  printf '%s\n' /opt/aos/bin/tee-worker --enclave nitro --vsock "$port" --model /model.gguf --name "$model_name" \
    ${worker_options[@]+"${worker_options[@]}"} >"$context/tee-worker.args"
  cp --reflink=auto "$model" "$context/model.gguf"
  find "$context" -type f -exec chmod 0644 {} +
  find "$context" -exec touch --no-dereference --date="@$EPOCH" {} +
}

build_image() {
  local context="$here/context"
  case "$(uname -m)" in
    x86_64) flags="$flags $flags_x86" ;;
    aarch64) flags="$flags $flags_arm" ;;
    *) fail "Nitro Enclaves are x86_64 or aarch64, not $(uname -m)" ;;
  esac
  say "building the image: the first time this compiles llama.cpp"
  DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker build --file "$context/tee_worker/Dockerfile" --tag "$IMAGE" \
    --build-arg "BASE=$base" --build-arg "BUILDER=$builder" --build-arg "CMAKE_FLAGS=$flags" \
    --build-arg "SOURCE_DATE_EPOCH=$EPOCH" "$context" >&2 ||
    fail "docker could not build the image: its lines above say why. Is docker running, and this user in its group? (scripts/init_env.sh --check)"
}

build_eif() {
  say "building the enclave image"
  nitro-cli build-enclave --docker-uri "$IMAGE" --output-file "$here/enclave.eif.new" >"$here/measurements.json" ||
    fail "nitro-cli could not build the enclave image: its lines above say why. A full disk is the usual cause:
  /tmp and $here each need three times the model's size"
  mv "$here/enclave.eif.new" "$eif"
}

# Prints register $1 as nitro-cli measured it.
pcr() {
  local value
  value="$(from_json 'said["Measurements"][wanted[0]].lower()' "PCR$1" <"$here/measurements.json")" || fail "nitro-cli printed no PCR$1: see $here/measurements.json"
  [[ "$value" =~ ^[0-9a-f]{96}$ ]] || fail "nitro-cli printed a PCR$1 that is no SHA-384: $value"
  echo "$value"
}

# The policy that this very enclave meets, in the form of docs/template/attestation-policy.yaml.
write_policy() {
  local registers=("$@") allow=false index
  if [[ "$debug" == yes ]]; then
    allow=true
    for index in 0 1 2; do registers[index]="$(printf '0%.0s' {1..96})"; done
  fi
  cat >"$here/policy.yaml" <<TEXT
version: aos-attestation-policy/1
models:
  "$model_name":
    sha256: "$(sha256sum "$model" | cut -d ' ' -f 1)"
    nitro:
      builds:
        - name: "$(describe_source)"
          measurements:
            pcr0: "${registers[0]}"
            pcr1: "${registers[1]}"
            pcr2: "${registers[2]}"
          allow_debug: $allow
TEXT
}

# Which commit this is, and whether the files still are that commit's: only then can somebody else build the same.
describe_source() {
  local commit
  commit="$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null)" || { echo "no commit" && return; }
  [[ -z "$(git -C "$root" status --porcelain -- protocol service inference tee_worker requirements pyproject.toml LICENSE)" ]] || commit="$commit with changes"
  echo "$commit"
}

# What somebody else must know to build the same: to be published together with the registers.
write_recipe() {
  {
    printf 'commit     %s\n' "$(describe_source)"
    printf 'base       %s\nbuilder    %s\n' "$base" "$builder"
    printf 'machine    %s\nnitro-cli  %s\n' "$(uname -m)" "$(nitro-cli --version)"
    printf 'model      %s\n' "$(sha256sum "$model" | cut -d ' ' -f 1)"
    printf 'arguments  %s\n' "$(tr '\n' ' ' <"$here/context/tee-worker.args")"
  } >"$here/recipe"
}

# nitro-cli refuses less than four times the image: it is unpacked in memory, into a file system of at most half of it.
choose_memory() {
  local least=$((4 * ($(stat --format %s "$eif") + 1048575) / 1048576 + 4))
  least=$((least > 2048 ? least : 2048))
  memory="${memory:-$least}"
  ((memory >= least)) || fail "--memory $memory is too little: an enclave with this image takes $least MiB or more"
}

main() {
  local pcr0 pcr1 pcr2 program_needed
  read_arguments "$@"
  check_arguments
  for program_needed in docker nitro-cli python3; do need_program "$program_needed"; done
  here="$state/$cid"
  [[ "$build_only" == no ]] || here="$state/build" # a running enclave's image and policy stay as they are
  lock
  eif="$here/enclave.eif"
  if [[ "$build_only" == no ]]; then
    [[ -e "${AOS_HOST_ROOT:-}/dev/nitro_enclaves" ]] || fail "this machine cannot run enclaves: scripts/init_env.sh --check says what is missing. To build only: --build-only"
    find_enclave RUNNING TERMINATING
    [[ -z "$id" ]] || fail "an enclave with CID $cid runs already: scripts/restart_tee.sh restarts it, nitro-cli terminate-enclave ends it"
  fi
  stage
  build_image
  build_eif
  pcr0="$(pcr 0)" pcr1="$(pcr 1)" pcr2="$(pcr 2)"
  write_recipe
  rm -rf "$here/context"
  write_policy "$pcr0" "$pcr1" "$pcr2"
  choose_memory
  printf 'PCR0 %s  the whole image, with the weights of %s\n' "$pcr0" "$model_name"
  printf 'PCR1 %s  kernel and boot, from nitro-cli\n' "$pcr1"
  printf 'PCR2 %s  the application, with the weights of %s\n\n' "$pcr2" "$model_name"
  say "a policy that trusts this enclave and no other is in $here/policy.yaml:"
  cat "$here/policy.yaml"
  say "what it takes to get the same registers again is in $here/recipe: publish both"
  [[ "$build_only" == no ]] || { say "built $eif; it needs $memory MiB. Nothing was started." && return; }
  start_enclave
  wait_until_it_attests "$patience"
  say "the enclave is at work. In the operator's YAML: node.node_type tee, net.tee_llm_cid $cid, net.tee_llm_port $port"
}

main "$@"
