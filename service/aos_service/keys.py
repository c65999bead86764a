"""The private key of a process: from its settings (a raw hex key) or from an encrypted keystore file."""

import os
import stat
from pathlib import Path

import structlog
from pydantic import SecretStr

from aos_protocol.errors import InvalidKey, ProtocolError
from aos_protocol.identity import Signer
from aos_service.errors import KeyFileError
from aos_service.private_files import check_private

DEFAULT_PASSWORD_ENV = "AOS_KEYSTORE_PASSWORD"  # noqa: S105 (a variable's name)

_log = structlog.get_logger(__name__)


def load_signer(
    value: SecretStr | None,
    *,
    keystore: Path | None = None,
    password_env: str = DEFAULT_PASSWORD_ENV,
    password_file: Path | None = None,
    file: Path | None = None,
    key_name: str = "signer_key",
) -> Signer:
    """Give the process its key.

    `value` is a raw key, 64 hex digits with or without `0x`; `keystore` an encrypted V3 file, whose password
    stands in the first line of `password_file`, or else in the environment variable `password_env`. `file` is
    the settings file that `value` came from: when it holds the key in plain and others may read it, a warning
    says so. `key_name` is what the settings call the key; messages use it.

    Raises:
        KeyFileError: when there is no key, or two, or it does not open.
    """
    if value is not None and keystore is not None:
        raise KeyFileError(
            f"{key_name} and a keystore ({keystore}) are both given: keep one, best the keystore"
        )
    if keystore is not None:
        return open_keystore(keystore, _password(password_env, password_file, keystore))
    if value is None:
        raise KeyFileError(f"no key: give {key_name} (64 hex digits), or a keystore made by `aos keys new`")
    if file is not None:
        _warn_if_shared(file, value.get_secret_value(), key_name)
    return _from_hex(value.get_secret_value(), key_name)


def _from_hex(text: str, key_name: str) -> Signer:
    try:
        return Signer.from_hex(text)
    except InvalidKey:  # its message is dropped: nothing may quote the key
        raise KeyFileError(
            f"{key_name} is no private key: it must be 64 hex digits, with or without 0x"
        ) from None


def open_keystore(keystore: Path, password: str) -> Signer:
    """Decrypt a V3 keystore file; takes about a second of computing, by design.

    Raises:
        KeyFileError: when it cannot be read, other users may read it, or this password does not open it.
    """
    try:
        document = keystore.read_text(encoding="utf-8")
    except OSError as error:
        raise KeyFileError(
            f"keystore {keystore} cannot be read: {error.strerror}; make one by `aos keys new`"
        ) from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"keystore {keystore} is not JSON: give a file made by `aos keys new`") from error
    check_private(keystore, "keystore")
    try:
        return Signer.from_keystore(document, password)
    except ProtocolError as error:
        raise KeyFileError(f"keystore {keystore}: {error}") from error


def read_password_file(password_file: Path) -> str:
    """The first line of a file, without its line end.

    Raises:
        KeyFileError: when there is none, or other users may read it.
    """
    try:
        lines = password_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KeyFileError(f"password file {password_file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeyFileError(f"password file {password_file} is not UTF-8 text: save it as UTF-8") from error
    if not lines or not lines[0]:
        raise KeyFileError(f"password file {password_file} is empty: its first line must be the password")
    check_private(password_file, "password file")
    return lines[0]


def _password(password_env: str, password_file: Path | None, keystore: Path) -> str:
    if password_file is not None:
        return read_password_file(password_file)
    if password_env not in os.environ:
        raise KeyFileError(
            f"keystore {keystore} needs its password: set {password_env}, or give a password file"
        )
    return os.environ[password_env]


def _warn_if_shared(file: Path, key: str, key_name: str) -> None:
    """Warn when `file` itself, not the environment, holds the key and others may read it."""
    digits = key.removeprefix("0x").removeprefix("0X")
    if not digits or digits.lower() not in file.read_text(encoding="utf-8", errors="replace").lower():
        return
    if file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning(
            "a secret can be read by other users: run chmod 600 on the file", holds=key_name, file=str(file)
        )
