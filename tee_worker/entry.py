"""The enclave's first program: gives up root where the security module allows, and becomes the worker; no shell is involved.

The enclave's init runs it as root, whatever the image says. Its argument is a file with the worker's command line, one argument a
line, which is a part of the image and so is measured.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NOBODY = 65532
ASK_THE_MODULE = (
    sys.executable,
    "-I",
    "-c",
    "from aos_tee_worker.nsm import NitroDevice; NitroDevice.open()",
)


def may_attest(user: int, question: Sequence[str] = ASK_THE_MODULE) -> bool:
    """Whether this user may ask the Nitro Secure Module, found out by asking it: the command `question` then ends with 0.

    The drivers of nitro-cli's kernels (nsm.ko) and of Linux since 6.8 make /dev/nsm for everybody; Linux' header says that it takes
    CAP_SYS_ADMIN, so that another kernel may want it.
    """
    return subprocess.run(question, user=user, group=user, extra_groups=[], check=False).returncode == 0


def give_up_root(user: int) -> None:
    """Become this user for good, with no other groups."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def main(arguments: Path) -> None:
    """Become the command in the file `arguments`. Raises `OSError` when it cannot be read or run."""
    command = arguments.read_text().splitlines()
    if may_attest(NOBODY):
        give_up_root(NOBODY)
    else:
        sys.stderr.write(
            "entry: the security module answers root only, so the worker runs as root in its enclave\n"
        )
    sys.stderr.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
