"""anvil, the local test chain of `aos up --chain`: a child process on a loopback port, with its state in the data folder.

Its accounts have ether that anybody can spend, since their keys are published: it shows how a chain is used, and proves nothing to
others.
"""

import asyncio
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx

from aos_cli import ports
from aos_cli.errors import EmbeddedError
from aos_service.child import Child
from aos_service.errors import ChildError
from aos_service.tether import tied

CHAIN_ID: Final = 31337
BLOCK_TIME_S: Final = 5
"""A block comes at once with a transaction, and without one after this many seconds: a jury is drawn on 17 blocks."""

SCRIPT: Final = Path(__file__).resolve().parents[2] / "scripts" / "anvil.sh"
"""What installs anvil, in a checkout."""

_SAVE_EVERY_S = 30
_START_TIMEOUT_S = 30.0
_RPC_TIMEOUT_S = 20.0


async def anvil_program() -> str:
    """Return the path of anvil: what the checkout's script installs by npm, or where there is none, the one on PATH.

    Raises:
        EmbeddedError: when there is neither; the message says how to get it.
    """
    on_path = shutil.which("anvil")
    if not SCRIPT.is_file():
        if on_path is None:
            raise EmbeddedError(
                "anvil, the local test chain, is not on PATH: npm install --global @foundry-rs/anvil (Node.js 20 or newer) puts "
                "it there; everything but --chain works without it"
            )
        return on_path
    process = await asyncio.create_subprocess_exec(
        *tied([str(SCRIPT)]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
        raise
    if process.returncode == 0:
        return output.decode().strip()
    if on_path is not None:
        return on_path
    raise EmbeddedError(errors.decode(errors="replace").strip() or f"{SCRIPT} failed")


class EmbeddedChain:
    """anvil on a folder that keeps its state, logging to a file; started once, in the event loop's thread."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self._log = log
        self._port: int | None = None
        self._child: Child | None = None
        self._held = ExitStack()

    @property
    def url(self) -> str:
        """The RPC URL. Raises `EmbeddedError` before `start`."""
        if self._port is None:
            raise EmbeddedError("anvil has no address before it is started: call start() first")
        return f"http://{ports.LOOPBACK}:{self._port}"

    @property
    def child(self) -> Child:
        """The running process, for whoever watches that it goes on. Raises `EmbeddedError` unless it was started."""
        if self._child is None:
            raise EmbeddedError("anvil is not running: call start() first")
        return self._child

    async def start(self) -> None:
        """Start anvil, with the state of the last run if there is one, and wait until it answers.

        Raises:
            EmbeddedError: when it cannot be had, or does not start; the message ends with the tail of its log.
        """
        program = await anvil_program()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._port = ports.number(self._held.enter_context(ports.reserve(0)))
        options = {
            "host": ports.LOOPBACK,
            "port": self._port,
            "chain-id": CHAIN_ID,
            "accounts": 1,
            "state": self.folder / "state.json",
            "state-interval": _SAVE_EVERY_S,
            "block-time": BLOCK_TIME_S,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._child = Child(
            "anvil",
            # Quiet: its banner prints private keys, and no log of ours holds any, not even published ones.
            [program, *arguments, "--mixed-mining", "--quiet"],
            log=self._log,
            stop_signal=signal.SIGTERM,  # it writes its state then
            folder=self.folder,
        )
        try:
            self._child.start()
            await self._child.until_ready(self._ready, timeout_s=_START_TIMEOUT_S)
        except (OSError, ChildError) as error:
            await self.stop()
            raise EmbeddedError(
                f"anvil does not start on {self.folder}: {error}\nIf its state cannot be read, remove that folder: a test chain begins anew"
            ) from error

    async def stop(self) -> None:
        """Stop it if it runs; its state is written and it is gone when this returns, also when cancelled."""
        try:
            if self._child is not None:
                await self._child.stop()
        finally:
            self._child = None
            self._port = None
            self._held.close()

    async def fund(self, address: str, amount: int) -> None:
        """See that an account has at least `amount` wei: what is missing comes from anvil's first account.

        Raises:
            EmbeddedError: when anvil refuses.
        """
        balance = int(await self._ask("eth_getBalance", address, "latest"), 16)
        if balance >= amount:
            return
        [first] = await self._ask("eth_accounts")
        sent = {"from": first, "to": address, "value": hex(amount - balance)}
        transaction = await self._ask("eth_sendTransaction", sent)
        async with asyncio.timeout(_RPC_TIMEOUT_S):
            while await self._ask("eth_getTransactionReceipt", transaction) is None:
                await asyncio.sleep(0.02)  # a node tells nobody of a block but who asks

    async def _ready(self) -> bool:
        try:
            return int(await self._ask("eth_chainId"), 16) == CHAIN_ID
        except httpx.TransportError:
            return False

    async def _ask(self, method: str, *params: Any) -> Any:  # noqa: ANN401 (JSON)
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with httpx.AsyncClient(trust_env=False, timeout=_RPC_TIMEOUT_S) as client:
            answer = (await client.post(self.url, json=body)).json()
        if "error" in answer:
            raise EmbeddedError(f"anvil refuses {method}: {answer['error'].get('message')}")
        return answer["result"]
