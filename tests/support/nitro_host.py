"""A Nitro host whose programs are FAKES: nitro-cli, docker, systemctl and the rest. No such machine is at hand.

The fakes write down how they are called, and answer in the forms that AWS documents. What they show is the order of calls, the options,
and what is done when something fails; that a real nitro-cli takes it all, they cannot show.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIGEST = "@sha256:" + "ab" * 32
IMAGES = ("--base", f"python:3.11-slim{DIGEST}", "--builder", f"python:3.11{DIGEST}")
FOLDERS = sorted(
    {
        str(Path(tool).parent)
        for name in ("bash", "python3", "git", "flock", "sed")
        if (tool := shutil.which(name))
    }
)
PCRS = {index: f"{index + 1:02x}" * 48 for index in range(3)}

RECORD = '#!/usr/bin/env bash\nset -euo pipefail\nprintf "%s\\n" "${0##*/} $*" >>"$FAKE/calls"\n'

NITRO = """
case "$1" in
  --version) echo "Nitro CLI 1.4.2" ;;
  describe-enclaves) cat "$FAKE/enclaves" ;;
  build-enclave)
    [[ ! -e "$FAKE/build-fails" ]] || { echo "[ E51 ] Enclave image error" >&2; exit 51; }
    echo "Start building the Enclave Image..." >&2
    truncate --size "${EIF_SIZE:-1000}" "${@: -1}"
    cat "$FAKE/measured" ;;
  run-enclave)
    [[ ! -e "$FAKE/run-fails" ]] || { echo "[ E39 ] Enclave process connection failure" >&2; exit 39; }
    echo "Start allocating memory..." >&2
    echo '[{"EnclaveName":"aos-tee-15","EnclaveID":"i-1-enc2","ProcessID":1,"EnclaveCID":15,"State":"RUNNING","Flags":"NONE"}]' >"$FAKE/enclaves"
    echo '{"EnclaveName":"aos-tee-15","EnclaveID":"i-1-enc2","ProcessID":1,"EnclaveCID":15}' ;;
  terminate-enclave)
    echo "Successfully terminated enclave $3."
    [[ -e "$FAKE/never-ends" ]] || echo '[]' >"$FAKE/enclaves" ;;
esac
"""

AOS = """
[[ ! -e "$FAKE/dies" ]] || echo '[]' >"$FAKE/enclaves"
left="$(cat "$FAKE/attest-fails" 2>/dev/null || echo 0)"
if ((left > 0)); then
  echo $((left - 1)) >"$FAKE/attest-fails"
  echo "aos: no answer from vsock://15:5005"
  exit 1
fi
echo "vsock://15:5005  nitro  good"
"""

DOCKER = """
if [[ "$1" == build ]]; then
  context="${@: -1}"
  (cd "$context" && find . -type f -printf '%p %m %T@\\n' | sort) >"$FAKE/context"
  cp "$context/tee-worker.args" "$FAKE/arguments"
  [[ ! -e "$FAKE/docker-fails" ]] || exit 1
fi
"""

SYSTEMCTL = """
case "$1" in
  is-active) [[ -e "$FAKE/active-${@: -1}" ]] ;;
  enable | restart) touch "$FAKE/active-${@: -1}" ;;
esac
"""

IDENTITY = """
case "$1" in
  -u) echo 0 ;;
  -un) echo tester ;;
  -nG) cat "$FAKE/groups" ;;
esac
"""


@dataclass
class Host:
    """A host whose programs are fakes: `fake` is their folder and log, `root` what takes the place of /."""

    fake: Path
    root: Path
    state: Path
    model: Path

    def install(self, name: str, body: str = "") -> None:
        program = self.fake / "bin" / name
        program.write_text(RECORD + body)
        program.chmod(0o755)

    def remove(self, name: str) -> None:
        (self.fake / "bin" / name).unlink()

    def set(self, name: str, content: str = "") -> None:
        (self.fake / name).write_text(content)

    def calls(self, *programs: str) -> list[str]:
        """How the fakes were called, in order, optionally only some of them; what only looks is left out."""
        path = self.fake / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        looks = ("nitro-cli describe", "nitro-cli --version", "systemctl is-active", "id ", "nproc", "uname")
        return [
            line
            for line in lines
            if not line.startswith(looks) and (not programs or line.split()[0] in programs)
        ]

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(ROOT / "scripts" / script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.pathsep.join([str(self.fake / "bin"), *FOLDERS]),
                "FAKE": str(self.fake),
                "AOS_HOST_ROOT": str(self.root),
                "AOS_TEE_STATE": str(self.state),
                "AOS_COMMAND": str(self.fake / "bin" / "aos"),
                "AOS_TEE_PAUSE": "0",
                "HOME": str(self.fake),
                **environment,
            },
        )

    def build_and_run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.run("run_tee.sh", str(self.model), *IMAGES, *arguments, **environment)


def nitro_host(folder: Path) -> Host:
    """A Nitro host on Amazon Linux with everything in place, and no enclave running."""
    made = Host(folder / "fake", folder / "root", folder / "state", folder / "tiny.gguf")
    (made.fake / "bin").mkdir(parents=True)
    for folder in ("etc/nitro_enclaves", "dev", "proc"):
        (made.root / folder).mkdir(parents=True)
    (made.root / "etc/os-release").write_text('NAME="Amazon Linux"\nID="amzn"\nVERSION_ID="2023"\n')
    (made.root / "dev/nitro_enclaves").touch()
    (made.root / "proc/meminfo").write_text("MemTotal: 99 kB\nHugetlb:         8388608 kB\n")
    (made.root / "etc/nitro_enclaves/allocator.yaml").write_text("---\nmemory_mib: 4096\ncpu_count: 2\n")
    made.model.write_bytes(b"GGUF" + bytes(1000))
    registers = ", ".join(f'"PCR{index}": "{value}"' for index, value in PCRS.items())
    made.set("measured", f'{{"Measurements": {{"HashAlgorithm": "Sha384 {{ ... }}", {registers}}}}}')
    made.set("enclaves", "[]")
    made.set("groups", "tester ne docker")
    for unit in ("docker", "nitro-enclaves-allocator"):
        made.set(f"active-{unit}")
    for name, body in {
        "nitro-cli": NITRO,
        "aos": AOS,
        "docker": DOCKER,
        "systemctl": SYSTEMCTL,
        "id": IDENTITY,
        "nproc": "echo 8",
        "uname": "echo x86_64",
        "getent": "true",
    }.items():
        made.install(name, body)
    for name in ("dnf", "apt-get", "modprobe", "usermod", "groupadd"):
        made.install(name)
    return made
