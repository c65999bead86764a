"""Makes an operator's account: a key in an encrypted keystore file."""

import os
from pathlib import Path

from aos_operator.errors import StartError
from aos_protocol.identity import Signer


def make_account(password: str, path: Path | None) -> tuple[str, Path]:
    """Write a new key's keystore, readable by its owner only, and return its address and its file.

    Without a `path`, the file is `keystore-ADDRESS.json` in the current folder. Raises `StartError` when it cannot be
    written, or is there already: a key is never overwritten.
    """
    signer = Signer.generate()
    target = path or Path(f"keystore-{signer.address}.json")
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StartError(
            f"{target} is there already, and a key is never overwritten: give another --keystore"
        ) from None
    except OSError as error:
        raise StartError(f"{target} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(signer.to_keystore(password))
    return signer.address, target
