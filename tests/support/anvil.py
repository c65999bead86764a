"""A real chain for tests: anvil as a child process, which mines when told, forgets blocks, and stops answering."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aos_protocol.identity import Signer
from aos_service.tether import tied

ROOT = Path(__file__).resolve().parents[2]
CHAIN_ID = 31337
ETHER = 10**18
_LISTENING = re.compile(rb"Listening on (127\.0\.0\.1:\d+)")


@cache
def anvil_program() -> str:
    """The path of anvil's program, installed by scripts/anvil.sh where it is not yet."""
    if os.environ.get("AOS_TEST_NO_ANVIL"):
        pytest.skip("AOS_TEST_NO_ANVIL is set: tests on a real chain are left out")
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("npm is missing, which installs anvil: tests on a real chain are left out")
    done = subprocess.run(
        [ROOT / "scripts" / "anvil.sh"], capture_output=True, text=True, check=False, timeout=50
    )
    if done.returncode:
        pytest.fail(f"{done.stderr}\n(AOS_TEST_NO_ANVIL=1 leaves out the tests that need it)")
    return done.stdout.strip()


class Anvil:
    """A running chain at `url`. It mines a block for each transaction, unless `automine(False)`."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self._process = process
        self._keys = 0

    async def rpc(self, method: str, *params: Any) -> Any:
        """Ask the node itself, past the code under test."""
        return await asyncio.to_thread(self._ask, method, params)

    async def signer(self, ether: int = 1000) -> Signer:
        """A key that has ether; the same ones in each run."""
        self._keys += 1
        signer = Signer(bytes(30) + b"\xa0" + bytes((self._keys,)))
        await self.rpc("anvil_setBalance", signer.address, hex(ether * ETHER))
        return signer

    async def mine(self, blocks: int = 1) -> None:
        await self.rpc("anvil_mine", hex(blocks))

    async def automine(self, on: bool) -> None:
        await self.rpc("evm_setAutomine", on)

    async def travel(self, seconds: int) -> None:
        """Let time pass, and mine a block in it."""
        await self.rpc("evm_increaseTime", hex(seconds))
        await self.mine()

    async def head(self) -> int:
        return int(await self.rpc("eth_blockNumber"), 16)

    async def reorganise(self, depth: int) -> None:
        """Replace the last blocks by as many empty ones: their transactions are undone."""
        await self.rpc("anvil_reorg", depth, [])

    def pause(self) -> None:
        """Let the node hang: connections are taken, and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """End the node, and with it the chain."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def _ask(self, method: str, params: tuple[Any, ...]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        asked = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            document = json.load(answer)
        if "error" in document:
            raise RuntimeError(f"{method}: {document['error']}")
        return document["result"]


@asynccontextmanager
async def running_anvil(*options: str, port: int = 0) -> AsyncIterator[Anvil]:
    """Run a fresh chain (id 31337) on a loopback port, a free one by default."""
    command = [anvil_program(), "--port", str(port), "--host", "127.0.0.1", "--accounts", "1", *options]
    process = await asyncio.create_subprocess_exec(
        *tied(command, on_parent_death=signal.SIGKILL), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    draining: asyncio.Task[None] | None = None
    try:
        url = await _listening(process.stdout)
        draining = asyncio.create_task(_drain(process.stdout))
        yield Anvil(url, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if draining is not None:
            await draining


async def _listening(output: asyncio.StreamReader) -> str:
    async for line in output:
        if found := _LISTENING.search(line):
            return f"http://{found[1].decode()}"
    pytest.fail("anvil ended before it listened")


async def _drain(output: asyncio.StreamReader) -> None:
    """Read what it prints, or it would wait once the pipe is full."""
    while await output.read(65536):
        pass
