"""Files that hold a secret: they are read only when no other user can read them, too."""

import os
import stat
from pathlib import Path

from aos_service.errors import KeyFileError


def check_private(path: Path, what: str) -> None:
    """Refuse a file that other users may read or change; one of root's may be readable by its group.

    The exception is for keys that an administrator hands to a service's group, as PostgreSQL allows it for its TLS key. `what` says in
    the message what the file holds.

    Raises:
        KeyFileError: when others have access, or the file cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(f"{what} {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        return  # /dev/stdin or a pipe from a secrets manager: nobody can open it again
    for_group = stat.S_IRGRP if status.st_uid == 0 and os.geteuid() != 0 else 0
    open_to = status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~for_group
    if open_to:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyFileError(
            f"{what} {path} is open to other users (mode {mode:04o}): run chmod 600 {path}, and if others had access, "
            "replace the secret in it"
        )
