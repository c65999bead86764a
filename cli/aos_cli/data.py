"""The data folder of a one-machine stack: where each thing lies, who may read it, and whether the stack runs.

FOLDER/token             API token of the project, for `aos submit`
FOLDER/running.json      where the running stack answers
FOLDER/keys, config      keystores with their password file; the configuration of each part
FOLDER/simulator         root key and certificate of simulated enclaves
FOLDER/logs              what each part logged
FOLDER/postgres, valkey  the embedded servers' data
FOLDER/chain             the local chain's state; where its contracts are is in config/chain.json
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aos_cli.errors import CliError
from aos_cli.failures import AlreadyRunning
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import checksum_address


class Running(BaseModel):
    """What a running stack tells the other commands; nothing in it is secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    url: str
    project: str
    model: str
    rpc: str | None = None
    """Where its chain answers; None for a stack without one."""


class DataFolder:
    """A data folder by its path; `make` creates it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.keys = self.root / "keys"
        self.config = self.root / "config"
        self.logs = self.root / "logs"
        self.postgres = self.root / "postgres"
        self.valkey = self.root / "valkey"
        self.simulator = self.root / "simulator"
        self.password = self.keys / "password"
        self.policy = self.config / "attestation-policy.yaml"
        self.chain = self.root / "chain"
        self.deployment = self.config / "chain.json"
        self.token_file = self.root / "token"
        self._lock_file = self.root / "lock"
        self._running_file = self.root / "running.json"

    def make(self) -> None:
        """Create what is missing; only its owner can look into it.

        Raises:
            CliError: when it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            _let_postgres_through(self.root)
            for folder in (self.keys, self.config, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CliError(
                f"the data folder {self.root} cannot be made: {error.strerror}: choose another with --data"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep every other stack away from it.

        Raises:
            AlreadyRunning: when another has it.
        """
        self.make()
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(self._who_runs()) from None
            yield
        finally:
            os.close(descriptor)

    def keystore(self, name: str) -> Path:
        """The keystore file of `dispatcher`, `operator-N` or `enclave-N`."""
        return self.keys / f"{name}.json"

    def address(self, name: str) -> str:
        """The address that a local keystore is for, in EIP-55 form.

        Raises:
            CliError: when there is no such keystore, or it names none.
        """
        path = self.keystore(name)
        try:
            return checksum_address(json.loads(path.read_text(encoding="utf-8"))["address"])
        except FileNotFoundError:
            raise CliError(f"there is no keystore {path}: `aos up` makes it") from None
        except (OSError, ValueError, KeyError, TypeError, InvalidAddress) as error:
            raise CliError(
                f"the keystore {path} names no address ({error}): restore it from a copy"
            ) from error

    def token(self) -> str | None:
        """The project's API token, once there is one."""
        try:
            return self.token_file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CliError(f"{self.token_file} cannot be read: {error.strerror}") from error

    def running(self) -> Running | None:
        """Where the stack on this folder answers; None when none is up.

        Raises:
            CliError: when the file that says so cannot be read.
        """
        try:
            said = Running.model_validate_json(self._running_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            raise CliError(
                f"{self._running_file} cannot be read: remove it, and start `aos up` again"
            ) from error
        return said if _runs(said.pid) else None  # a killed stack could not take its file away

    @contextmanager
    def announced(self, running: Running) -> Iterator[None]:
        """Let the other commands find this stack for as long as it is up."""
        write_private(self._running_file, running.model_dump_json(indent=2) + "\n")
        try:
            yield
        finally:
            self._running_file.unlink(missing_ok=True)

    def _who_runs(self) -> str:
        running = self.running()
        who = f", at {running.url} (process {running.pid})" if running else ", and is still starting"
        return f"a stack runs on {self.root} already{who}: use that one, stop it, or choose another folder with --data"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder for embedded servers that is removed with all that it holds."""
    folder = Path(tempfile.mkdtemp(prefix=f"aos-{purpose}-"))
    try:
        _let_postgres_through(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def _let_postgres_through(folder: Path) -> None:
    """Close a folder to others; root's may be passed through, not listed, since its PostgreSQL runs as another user."""
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
