"""`aos chain` against a chain of the tests: each command in this process, with a keystore for whoever sends."""

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import Result
from eth_account import Account
from typer.testing import CliRunner

from aos_cli.main import app
from aos_protocol.identity import Signer

PASSWORD = "a password of the tests"


class ChainCommands:
    """Runs `aos chain ...` on an RPC URL and a deployment file, in `folder`."""

    def __init__(self, folder: Path, rpc: str) -> None:
        self.folder = folder
        self.rpc = rpc
        self.deployment = folder / "chain.json"
        self.password = folder / "password"
        self.password.write_text(PASSWORD)
        self.password.chmod(0o600)

    def keystore(self, signer: Signer) -> Path:
        """The file of a key; its derivation takes no time."""
        file = self.folder / f"{signer.address}.json"
        if not file.exists():
            file.write_text(json.dumps(Account.encrypt(signer.secret, PASSWORD, kdf="pbkdf2", iterations=1)))
            file.chmod(0o600)
        return file

    def run(self, *arguments: str, key: Signer | None = None) -> Result:
        """Run a command to its end; `key` is whose keystore it gets."""
        given = ["--rpc", self.rpc, "--deployment", str(self.deployment)]
        if key is not None:
            given += ["--keystore", str(self.keystore(key)), "--password-file", str(self.password)]
        return CliRunner().invoke(app, ["chain", *arguments, *given])

    async def aos(self, *arguments: str, key: Signer | None = None) -> str:
        """Run a command that succeeds; its stdout."""
        done = await asyncio.to_thread(self.run, *arguments, key=key)
        assert done.exit_code == 0, done.output
        return done.stdout

    async def fails(self, *arguments: str, key: Signer | None = None) -> str:
        """Run a command that fails with a message; the message, without the word error."""
        done = await asyncio.to_thread(self.run, *arguments, key=key)
        assert (done.exit_code, done.stdout) == (1, ""), done.output
        *_, last = done.stderr.partition("error: ")
        return last.strip()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.aos("status", *arguments, "--json"))

    def evidence(self, document: dict[str, Any], name: str = "evidence.json") -> list[str]:
        """The option that has a command read this evidence."""
        file = self.folder / name
        file.write_text(json.dumps(document))
        return ["--evidence", str(file)]
