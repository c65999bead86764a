"""`aos keys`: make the key of a dispatcher or operator, and look at one."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from aos_cli.errors import CliError, KeyFileExistsError, MessageGroup, PasswordError
from aos_protocol.identity import Signer
from aos_service.keys import open_keystore, read_password_file
from aos_service.logs import configure_logs

app = typer.Typer(
    cls=MessageGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they hold passwords
)

PasswordFile = Annotated[
    Path | None,
    typer.Option(
        help="Read the password from the first line of this file instead of asking.", show_default=False
    ),
]


def new_keystore(path: Path, password: str) -> str:
    """Make a key and write it to `path`, encrypted (V3) and for its owner alone; the key's address.

    Raises:
        KeyFileExistsError: when there is a file at `path`; it stays as it is.
        PasswordError: for an empty password.
    """
    if not password:
        raise PasswordError(
            "the password is empty: anybody who gets the file would have the key; choose another"
        )
    if path.exists():
        raise _exists(path)
    signer = Signer.generate()
    _write_new(path, signer.to_keystore(password) + "\n")
    return signer.address


@app.callback()
def _start() -> None:
    """Make and show the keys that name dispatchers and operators."""
    configure_logs("aos", level="warning", json=False)


@app.command(
    epilog="Example: aos keys new operator-key.json --password-file operator-password.txt",
)
def new(
    path: Annotated[
        Path, typer.Argument(help="The keystore file to write; it must not exist.", show_default=False)
    ],
    password_file: PasswordFile = None,
) -> None:
    """Make a key and write it to an encrypted file; prints its address.

    Point `keystore` in the configuration to the file. Keep a copy of it and of its password: nobody can make
    the key again.
    """
    if path.exists():  # before anybody types a password
        raise _exists(path)
    typer.echo(new_keystore(path, ask_password(password_file, confirm=True)))


@app.command(epilog="Example: aos keys show operator-key.json --password-file operator-password.txt")
def show(
    path: Annotated[Path, typer.Argument(help="A keystore file.", show_default=False)],
    password_file: PasswordFile = None,
) -> None:
    """Open a keystore and print its address and public key, so that you know that file and password fit."""
    signer = open_keystore(path, ask_password(password_file))
    typer.echo(f"address     {signer.address}")
    typer.echo(f"public key  {signer.public_key.hex()}")


def ask_password(password_file: Path | None, *, confirm: bool = False) -> str:
    """Return a keystore's password: from the file, or asked for on the terminal.

    Raises:
        PasswordError: when there is neither.
    """
    if password_file is not None:
        return read_password_file(password_file)
    if not sys.stdin.isatty():
        raise PasswordError("there is no terminal to ask for the password: give --password-file FILE")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=confirm)
    return password


def _write_new(path: Path, text: str) -> None:
    """Write a file of mode 0600 that must not exist, all of it or nothing."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _exists(path: Path) -> KeyFileExistsError:
    return KeyFileExistsError(
        f"{path} exists and is not overwritten (a lost key cannot be made again): choose another name"
    )
