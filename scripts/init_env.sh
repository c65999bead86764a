#!/usr/bin/env bash
# Makes an EC2 instance with Nitro Enclaves ready for scripts/run_tee.sh: driver, docker, nitro-cli, groups, and the CPUs and memory
# that are set aside for enclaves. It does what is missing, says what it did, and can be run again at any time.
#
#   sudo scripts/init_env.sh [--cpus N] [--memory MiB] [--user NAME]
#   scripts/init_env.sh --check [--cpus N] [--memory MiB] [--user NAME]
#
#   --check       only look; the exit status is 0 when nothing is missing
#   --cpus N      CPUs for enclaves (default: what is set aside now, and at least 2)
#   --memory MiB  memory for enclaves (default: what is set aside now, and at least 4096): four times the image, see docs/attestation.md
#   --user NAME   who will run enclaves (default: whoever calls sudo)
#
# Amazon Linux 2023 has packages of everything. Ubuntu has none of nitro-cli: there this says how to get it, and does the rest.
set -euo pipefail

readonly HOST="${AOS_HOST_ROOT:-}" # tests look at another root directory
readonly ALLOCATOR="$HOST/etc/nitro_enclaves/allocator.yaml"

check_only=no cpus="" memory="" user="${SUDO_USER:-$(id -un)}" missing=0 did=0 login_again=no

fail() {
  printf 'init_env: %s\n' "$*" >&2
  exit 1
}

wrong_use() {
  printf 'init_env: %s\n' "$*" >&2
  exit 2
}

fine() {
  printf 'ok       %s\n' "$*"
}

done_now() {
  printf 'did      %s\n' "$*"
  did=$((did + 1))
}

lacks() {
  printf 'missing  %s\n' "$*"
  missing=$((missing + 1))
}

usage() {
  sed -nE '2,/^set /{/^set /d; s/^# ?//; p}' "${BASH_SOURCE[0]}"
}

read_arguments() {
  while (($#)); do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --check) check_only=yes ;;
      --cpus | --memory | --user)
        (($# > 1)) || wrong_use "$1 needs a value"
        [[ "$1" == --user || "$2" =~ ^[1-9][0-9]{0,7}$ ]] || wrong_use "$1 is a whole number, not '$2'"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      *) wrong_use "unknown argument $1; --help lists them" ;;
    esac
    shift
  done
  [[ "$check_only" == yes || "$(id -u)" == 0 || -n "$HOST" ]] || fail "run it with sudo; --check looks without"
}

find_system() {
  local line
  system=""
  while IFS= read -r line; do
    [[ "$line" =~ ^ID=\"?([a-z]+)\"?$ ]] && system="${BASH_REMATCH[1]}"
  done <"$HOST/etc/os-release"
  [[ "$system" == amzn || "$system" == ubuntu ]] ||
    fail "this is '$system'; packages are known here for Amazon Linux 2023 and Ubuntu. On others install docker and nitro-cli as AWS documents, then see --check"
}

install_packages() {
  if [[ "$system" == amzn ]]; then
    dnf install --assumeyes --quiet "$@" >&2
  else
    apt-get update --quiet=2 >&2
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 "$@" >&2
  fi
}

# Everything else is in vain without: the instance must have been launched for enclaves, which no script in it can change.
see_to_driver() {
  [[ -e "$HOST/dev/nitro_enclaves" ]] && fine "driver: /dev/nitro_enclaves" && return
  if [[ "$check_only" == no ]]; then
    [[ "$system" == amzn ]] || install_packages linux-modules-extra-aws
    modprobe nitro_enclaves >&2 || true # the device decides, just below
    [[ -e "$HOST/dev/nitro_enclaves" ]] && done_now "driver: loaded, /dev/nitro_enclaves is there" && return
  fi
  fail "there is no /dev/nitro_enclaves, so this machine cannot run Nitro Enclaves. It must be an EC2 instance
  - of a type with the Nitro hypervisor and at least 4 virtual CPUs (2 on Graviton); no .metal, no t-types: AWS lists them under 'Requirements',
  - that was launched with enclaves enabled: aws ec2 run-instances --enclave-options Enabled=true ... (it can be changed while it is stopped),
  - whose kernel has the driver (Ubuntu: apt-get install linux-modules-extra-aws, then modprobe nitro_enclaves).
Anywhere else the simulator shows how all of it works, and proves nothing: tee-worker --enclave simulated"
}

see_to_docker() {
  if ! command -v docker >/dev/null; then
    [[ "$check_only" == no ]] || { lacks "docker: not installed" && return; }
    if [[ "$system" == amzn ]]; then install_packages docker; else install_packages docker.io docker-buildx; fi
    done_now "docker: installed"
  fi
  if systemctl is-active --quiet docker; then
    fine "docker: runs"
  elif [[ "$check_only" == yes ]]; then
    lacks "docker: is not running (systemctl enable --now docker)"
  else
    systemctl enable --now docker >&2
    done_now "docker: started, and at every boot"
  fi
}

see_to_nitro_cli() {
  if command -v nitro-cli >/dev/null; then
    fine "nitro-cli: $(nitro-cli --version)"
  elif [[ "$system" == ubuntu ]]; then
    lacks "nitro-cli: Ubuntu has no package. Build it from AWS's repository aws-nitro-enclaves-cli (docs/ubuntu_*.md there: make nitro-cli,
         make vsock-proxy, make nitro-enclaves-allocator, make install), then run this again"
  elif [[ "$check_only" == yes ]]; then
    lacks "nitro-cli: not installed (dnf install aws-nitro-enclaves-cli aws-nitro-enclaves-cli-devel)"
  else
    install_packages aws-nitro-enclaves-cli aws-nitro-enclaves-cli-devel # the second has the kernel that images are made with
    done_now "nitro-cli: installed, $(nitro-cli --version)"
  fi
}

see_to_groups() {
  local group
  [[ "$user" != root ]] || { fine "groups: root needs none" && return; }
  for group in ne docker; do
    if [[ " $(id -nG "$user") " == *" $group "* ]]; then
      fine "groups: $user is in $group"
    elif [[ "$check_only" == yes ]]; then
      lacks "groups: $user is not in $group (usermod -aG $group $user)"
    else
      getent group "$group" >/dev/null || groupadd --system "$group"
      usermod -aG "$group" "$user"
      done_now "groups: $user is in $group now"
      login_again=yes
    fi
  done
}

# Prints the number that stands under key $1 in the allocator's file, or nothing.
set_aside() {
  [[ -f "$ALLOCATOR" ]] || return 0
  sed -nE "s/^$1:[[:space:]]*([0-9]+)[[:space:]]*$/\1/p" "$ALLOCATOR" | tail -n 1
}

choose() {
  local now="$1" least="$2"
  echo $((${now:-0} > least ? now : least))
}

see_to_allocator() {
  local now_cpus now_memory all
  now_cpus="$(set_aside cpu_count)" now_memory="$(set_aside memory_mib)"
  cpus="${cpus:-$(choose "$now_cpus" 2)}" memory="${memory:-$(choose "$now_memory" 4096)}"
  all="$(nproc --all)"
  ((all - cpus >= 2)) || fail "$cpus of $all CPUs cannot be set aside: the host needs 2. Choose a larger instance, or fewer with --cpus"
  if [[ "$now_cpus" == "$cpus" && "$now_memory" == "$memory" ]] && systemctl is-active --quiet nitro-enclaves-allocator; then
    fine "allocator: $cpus CPUs and $memory MiB are set aside"
  elif [[ "$check_only" == yes ]]; then
    lacks "allocator: ${now_cpus:-0} CPUs and ${now_memory:-0} MiB are set aside, $cpus and $memory are wanted"
  else
    set_resources
  fi
}

set_resources() {
  if command -v nitro-cli >/dev/null && [[ "$(nitro-cli describe-enclaves | tr -d '[:space:]')" != "[]" ]]; then
    fail "an enclave runs, and the allocator cannot be changed under it: nitro-cli terminate-enclave --all, then run this again"
  fi
  mkdir -p "$(dirname "$ALLOCATOR")"
  [[ ! -f "$ALLOCATOR" || -f "$ALLOCATOR.before-aos" ]] || cp "$ALLOCATOR" "$ALLOCATOR.before-aos"
  printf -- '---\n# Written by scripts/init_env.sh of AOS; what was here before is in allocator.yaml.before-aos.\nmemory_mib: %s\ncpu_count: %s\n' \
    "$memory" "$cpus" >"$ALLOCATOR"
  systemctl enable nitro-enclaves-allocator >&2
  systemctl restart nitro-enclaves-allocator >&2 || fail "the allocator could not set aside $cpus CPUs and $memory MiB: journalctl -u nitro-enclaves-allocator says why.
  Too little free memory in one piece is the usual cause: reboot, and it is set aside before anything else starts"
  done_now "allocator: $cpus CPUs and $memory MiB are set aside, now and at every boot"
}

# The allocator takes the memory as huge pages of any size; the kernel's sum of them is in kB.
see_to_hugepages() {
  local kib
  kib="$(sed -nE 's/^Hugetlb:[[:space:]]+([0-9]+) kB$/\1/p' "$HOST/proc/meminfo")"
  if ((${kib:-0} / 1024 >= memory)); then
    fine "huge pages: $((kib / 1024)) MiB"
  else
    lacks "huge pages: $((${kib:-0} / 1024)) MiB of $memory: reboot, and the allocator gets them before memory is in pieces"
  fi
}

main() {
  read_arguments "$@"
  find_system
  see_to_driver
  see_to_docker
  see_to_nitro_cli
  see_to_groups
  see_to_allocator
  see_to_hugepages
  printf '\n'
  if ((missing)); then
    if [[ "$check_only" == yes ]]; then
      printf 'Next: sudo scripts/init_env.sh\n'
    else
      printf 'Next: what is called missing above, then this script again.\n'
    fi
    exit 1
  fi
  [[ "$login_again" == no ]] || printf 'Next: log out and in again, so that the new groups count.\n'
  printf 'Next: scripts/run_tee.sh models/NAME.gguf --base ... --builder ...   (docs/attestation.md)\n'
}

main "$@"
