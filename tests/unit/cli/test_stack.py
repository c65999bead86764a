"""The parts of the stack that are no process: its folder, its files, its signals, its progress."""

import asyncio
import hashlib
import io
import json
import os
import signal
import stat
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from aos_chain.deployment import Deployment
from aos_cli import data as data_module
from aos_cli import stack as stack_module
from aos_cli.commands import program, run_command
from aos_cli.configs import ChainPlace, ensure_password, make_keystore, write_dispatcher, write_operator
from aos_cli.data import DataFolder, Running, temporary_folder, write_private
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_cli.errors import CliError
from aos_cli.failures import AlreadyRunning, Interrupted, NoDispatcher, StackError
from aos_cli.interrupts import Interrupts
from aos_cli.progress import Progress
from aos_cli.stack import Plan, Stack
from aos_cli.target import find_target, read_token
from aos_dispatcher.settings import DispatcherSettings
from aos_operator.settings import OperatorSettings
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.fields import EVIDENCE_LEVELS, EvidenceLevel
from aos_protocol.identity import Signer
from aos_service.errors import KeyFileError
from aos_service.keys import load_signer, open_keystore
from aos_service.settings import load_settings
from aos_tee_worker.simulator import ensure_root, measurements
from support.calibration import calibration

DISPATCHER, OPERATOR = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
PLACE = ChainPlace(
    "http://127.0.0.1:8545", Deployment(31337, *(f"0x{number:040x}" for number in range(1, 5)), 7)
)
TEMPLATE = Path(__file__).parents[3] / "docs" / "template" / "config-dispatcher.yaml"


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    """A data folder with the keystores' addresses, and no secret in them."""
    folder = DataFolder(tmp_path / "with ${HOME} and 'quotes'")
    folder.make()
    for name, signer in (("dispatcher", DISPATCHER), ("operator-1", OPERATOR)):
        folder.keystore(name).write_text(f'{{"address": "{signer.address[2:].lower()}"}}')
    return folder


def running(**changes: object) -> Running:
    known = {"pid": os.getpid(), "url": "http://127.0.0.1:8000", "project": "demo", "model": "tiny.gguf"}
    return Running.model_validate(known | changes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_closed_to_others(data: DataFolder) -> None:
    assert mode(data.root) == (0o711 if os.geteuid() == 0 else 0o700)
    assert {mode(folder) for folder in (data.keys, data.config, data.logs)} == {0o700}
    data.make()


def test_root_lets_others_through_since_its_postgres_is_not_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, expected in ((0, 0o711), (1000, 0o700)):
        monkeypatch.setattr(data_module.os, "geteuid", lambda user=user: user)
        DataFolder(tmp_path).make()
        assert mode(tmp_path) == expected


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CliError, match=r"the data folder .*file cannot be made: .*: choose another with --data"
    ):
        DataFolder(tmp_path / "file").make()


def test_one_stack_has_the_folder(data: DataFolder) -> None:
    with data.locked():
        with pytest.raises(
            AlreadyRunning, match=r"already, and is still starting: use that one, stop it, or choose"
        ):
            data.locked().__enter__()
        with (
            data.announced(running()),
            pytest.raises(AlreadyRunning, match=r"at http://127.0.0.1:8000 .process"),
        ):
            data.locked().__enter__()
    with data.locked():
        pass


def test_a_running_stack_is_found_until_it_stops(data: DataFolder) -> None:
    assert data.running() is None
    with data.announced(running()):
        assert data.running() == running()
    assert data.running() is None


def test_a_stack_that_was_killed_is_not_running(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_pid: int, _signal: int) -> None:
        raise ProcessLookupError

    def another_s(_pid: int, _signal: int) -> None:
        raise PermissionError

    with data.announced(running()):
        monkeypatch.setattr(data_module.os, "kill", another_s)
        assert data.running() is not None
        monkeypatch.setattr(data_module.os, "kill", gone)
        assert data.running() is None


def test_a_damaged_note_of_the_running_stack_is_said_to_be_one(data: DataFolder) -> None:
    (data.root / "running.json").write_text("{")
    with pytest.raises(CliError, match=r"running.json cannot be read: remove it, and start `aos up` again"):
        data.running()


def test_the_token_is_found_once_there_is_one(data: DataFolder) -> None:
    assert data.token() is None
    write_private(data.token_file, "aos_secret\n")
    assert data.token() == "aos_secret"
    assert mode(data.token_file) == 0o600


def test_addresses_are_read_from_the_local_keystores(data: DataFolder) -> None:
    assert data.address("dispatcher") == DISPATCHER.address
    with pytest.raises(CliError, match=r"there is no keystore .*operator-9.json: `aos up` makes it"):
        data.address("operator-9")
    for bad in ("", "[]", "{}", '{"address": "12"}', '{"address": 12}'):
        data.keystore("dispatcher").write_text(bad)
        with pytest.raises(CliError, match=r"names no address"):
            data.address("dispatcher")


def test_a_private_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    previous = os.umask(0)
    try:
        write_private(path, "old")
    finally:
        os.umask(previous)
    assert mode(path) == 0o600

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder_goes_with_all_it_holds() -> None:
    with temporary_folder("test") as folder:
        (folder / "below").mkdir()
        assert mode(folder) == (0o711 if os.geteuid() == 0 else 0o700)
    assert not folder.exists()


def test_the_dispatcher_s_settings_are_ones_it_reads(data: DataFolder) -> None:
    password = ensure_password(data)
    file = write_dispatcher(data, f"postgresql://postgres@/dispatcher?host={data.root}/run", 8123)
    settings = load_settings(file, DispatcherSettings)
    assert settings.identity.keystore == data.keystore("dispatcher")
    assert settings.identity.keystore_password_file == password
    assert settings.database.url.get_secret_value().endswith(f"host={data.root}/run")
    assert (settings.listen.host, settings.listen.port) == ("127.0.0.1", 8123)
    assert settings.dispatch.draw_timeout == 10
    assert settings.verification.audit_ppm == 1_000_000
    assert settings.verification.least_evidence == "fingerprints"
    assert mode(file) == 0o600


@pytest.mark.parametrize("level", EVIDENCE_LEVELS)
def test_the_dispatcher_takes_what_it_is_told_to(data: DataFolder, level: EvidenceLevel) -> None:
    ensure_password(data)
    file = write_dispatcher(data, "postgresql://postgres@/dispatcher", 8123, least_evidence=level)
    assert load_settings(file, DispatcherSettings).verification.least_evidence == level


def test_several_processes_of_the_dispatcher_meet_over_redis(data: DataFolder) -> None:
    file = write_dispatcher(
        data, "postgresql://postgres@/d?host=/run", 8124, name="dispatcher-2", redis="unix:///run/v.sock"
    )
    settings = load_settings(file, DispatcherSettings)
    assert (file.name, settings.listen.port) == ("dispatcher-2.yaml", 8124)
    assert settings.cluster.redis_url is not None
    assert settings.cluster.redis_url.get_secret_value() == "unix:///run/v.sock"
    operator = write_operator(
        data,
        "operator-1",
        database="postgresql://postgres@/operators?host=/run",
        queue="unix:///run/valkey.sock?db=0",
        dispatcher_ports=[8124, 8123],
        worker=data.root / "worker.sock",
        model="tiny.gguf",
    )
    known = load_settings(operator, OperatorSettings).net.dispatcher_url
    assert known == ("ws://127.0.0.1:8124/ws", "ws://127.0.0.1:8123/ws")


def test_the_operator_s_settings_are_ones_it_reads(data: DataFolder) -> None:
    file = write_operator(
        data,
        "operator-1",
        database="postgresql://postgres@/operators?host=/run",
        queue="unix:///run/valkey.sock?db=0",
        dispatcher_ports=[8123],
        worker=data.root / "worker.sock",
        model="tiny.gguf",
    )
    settings = load_settings(file, OperatorSettings)
    assert settings.net.dispatcher_url == ("ws://127.0.0.1:8123/ws",)
    assert settings.net.worker_url == f"unix://{data.root}/worker.sock"
    assert settings.node.node_id == OPERATOR.address
    assert settings.node.dispatcher_address == DISPATCHER.address
    assert settings.node.ai_models == ["tiny.gguf"]
    assert mode(file) == 0o600


def test_with_a_chain_everybody_is_told_where_it_is(data: DataFolder) -> None:
    ensure_password(data)
    file = write_dispatcher(data, "postgresql://postgres@/d?host=/run", 8123, chain=PLACE)
    chain = load_settings(file, DispatcherSettings).chain
    assert (chain.chain_id, chain.registry) == (31337, PLACE.deployment.registry)
    assert (chain.anchor, chain.deployed_at) == (PLACE.deployment.anchor, 7)
    assert chain.anchor_interval == 3
    file = write_operator(
        data,
        "operator-1",
        database="postgresql://postgres@/operators?host=/run",
        queue="unix:///run/valkey.sock?db=0",
        dispatcher_ports=[8123],
        worker=data.root / "worker.sock",
        model="tiny.gguf",
        chain=PLACE,
    )
    own = load_settings(file, OperatorSettings).chain
    assert own.chain_rpc_url is not None
    assert own.chain_rpc_url.get_secret_value() == PLACE.rpc
    assert (own.vrf_range_contract, own.deployed_at) == (PLACE.deployment.registry, 7)
    assert own.confirmations == 0


@pytest.mark.parametrize(("had", "wanted"), [(True, False), (False, True)])
async def test_a_network_keeps_its_chain_or_has_none(
    data: DataFolder, tmp_path: Path, had: bool, wanted: bool
) -> None:
    data.postgres.mkdir()
    if had:
        data.chain.mkdir()
    kind = "a chain" if had else "no chain"
    with pytest.raises(StackError, match=rf"has {kind}, by which all .* choose another folder with --data"):
        await stack_of(data, Plan(tmp_path / "tiny.gguf", chain=wanted)).start()


def test_a_fresh_network_may_have_a_chain(data: DataFolder, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "tiny.gguf", chain=True)
    stack_module._check_kind(data, plan)
    data.chain.mkdir()
    data.postgres.mkdir()
    stack_module._check_kind(data, plan)


async def test_a_contract_s_operators_are_not_entered_by_hand(
    data: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []

    async def run(*command: str) -> str:
        ran.append(command)
        return ""

    monkeypatch.setattr(stack_module, "run_command", run)
    monkeypatch.setattr(Stack, "_start", lambda _self, _child: None)
    monkeypatch.setattr(
        EmbeddedPostgres, "url", lambda _self, name: f"postgresql://postgres@/{name}?host=/run"
    )
    monkeypatch.setattr(EmbeddedValkey, "url", lambda _self: "unix:///run/valkey.sock?db=0")
    stack = stack_of(data, Plan(tmp_path / "tiny.gguf", chain=True))
    assert (stack.chain, stack.running().rpc) == (None, None)
    await stack._start_operator("operator-1")
    assert [command[:3] for command in ran] == [("dispatcher", "operator", "add")]
    stack._place = PLACE
    await stack._start_operator("operator-1")
    assert len(ran) == 1
    assert stack.running().rpc == PLACE.rpc


def test_the_password_is_made_once(data: DataFolder) -> None:
    first = ensure_password(data).read_text()
    assert len(first.strip()) >= 32
    assert ensure_password(data).read_text() == first
    assert mode(data.password) == 0o600


def test_a_local_keystore_opens_with_the_password_file_and_at_once(data: DataFolder) -> None:
    password = ensure_password(data)
    for name in ("operator-2", "operator-3"):
        make_keystore(data, name, password.read_text().strip())
        started = time.process_time()
        signer = load_signer(None, keystore=data.keystore(name), password_file=password)
        assert time.process_time() - started < 0.2
        assert signer.address == data.address(name)
        assert mode(data.keystore(name)) == 0o600
    assert data.address("operator-2") != data.address("operator-3")
    with pytest.raises(KeyFileError):
        open_keystore(data.keystore("operator-2"), "another password")


def test_the_dispatcher_s_template_has_every_key_and_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_DB_PASSWORD", "secret")
    settings = load_settings(TEMPLATE, DispatcherSettings)
    assert (
        settings.database.url.get_secret_value() == "postgres://postgres:secret@127.0.0.1:5432/dispatcher_db"
    )
    bare = DispatcherSettings.model_validate({"database": {"url": "x"}, "identity": {}})
    for group in ("listen", "limits", "dispatch", "chain"):
        assert getattr(settings, group) == getattr(bare, group)
    pool = {"min_connect_pool", "max_connect_pool", "connect_timeout", "acquire_timeout"}
    assert settings.database.model_dump(include=pool) == bare.database.model_dump(include=pool)
    text = TEMPLATE.read_text()
    for name, value in settings:
        for key in type(value).model_fields:
            assert f"  {key}: " in text.replace("# ", ""), f"{name}.{key} is not in the template"
    written = yaml.safe_load(text)
    assert set(written) == set(DispatcherSettings.model_fields)
    assert set(written["database"]) == set(type(settings.database).model_fields)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_and_the_clean_up_runs(number: signal.Signals) -> None:
    steps: list[str] = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as stopped, Interrupts() as interrupts:
        interrupts.run(main())
    assert steps == ["cleaned up"]
    assert stopped.value.exit_status == 128 + number
    assert signal.getsignal(number) is before


def test_a_second_signal_hurries_the_clean_up() -> None:
    async def main() -> str:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()  # a part that does not stop
        return "never"

    with pytest.raises(Interrupted), Interrupts() as interrupts:
        interrupts.run(main())


def test_a_signal_before_and_after_the_loop_interrupts_nothing_that_cleans_up() -> None:
    async def main() -> str:
        await asyncio.sleep(0)
        return "never"

    steps = []
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupts.run(main())
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("cleaned up")
    assert steps == ["cleaned up"]


def test_without_a_signal_the_result_or_the_error_comes_through() -> None:
    async def result() -> int:
        return 7

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with Interrupts() as interrupts:
        assert interrupts.run(result()) == 7
        with pytest.raises(asyncio.CancelledError):
            interrupts.run(cancelled())


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_progress_prints_what_is_done_only() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=40))
    with progress.step("worker") as said, progress.step("keys"):
        said.append("[bold] /a/path/that/is/longer/than/the/console")
    with pytest.raises(ValueError, match=r"broken"), progress.step("dispatcher"):
        raise ValueError("broken")
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["keys", "worker"]
    assert lines[1].endswith(" s   [bold] /a/path/that/is/longer/than/the/console")


def test_a_terminal_sees_what_is_waited_for() -> None:
    progress = Progress(Console(file=io.StringIO(), force_terminal=True, width=80))
    with progress.step("worker"), progress.step("keys"):
        assert progress._status is not None
        assert str(progress._status.status) == "waiting for worker, keys"
    assert progress._status is None


async def test_a_part_that_ended_is_named_with_its_log(data: DataFolder, tmp_path: Path) -> None:
    out = Progress(Console(file=io.StringIO()))
    with ExitStack() as held:
        stack = Stack(data, Plan(tmp_path / "tiny.gguf"), out, [8000], held)

    class Ended:
        name, returncode = "operator-2", -9

        def log_tail(self) -> str:
            return "Its log, operator-2.log, ends:\n  the last line"

    stack._watched.append(Ended())  # type: ignore[arg-type]
    with pytest.raises(
        StackError, match=r"operator-2 ended with status -9\. Its log, operator-2.log, ends:\n  the last"
    ):
        await stack.watch()
    assert stack.names == ["operator-1", "operator-2", "operator-3"]
    assert stack.url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("calibrated", ["its own", "another file's", "no"])
async def test_the_model_is_pinned_with_the_calibration_beside_it(
    data: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated: str
) -> None:
    ran: list[tuple[str, ...]] = []

    async def run(*command: str) -> str:
        ran.append(command)
        return ""

    monkeypatch.setattr(stack_module, "run_command", run)
    model, said = tmp_path / "tiny.gguf", io.StringIO()
    model.write_bytes(b"tiny")
    digest, file = hashlib.sha256(b"tiny").hexdigest(), tmp_path / "tiny.calibration.json"
    if calibrated != "no":
        made = calibration(digest if calibrated == "its own" else "a" * 64)
        file.write_text(json.dumps(made.to_json()))
    with ExitStack() as held:
        stack = Stack(data, Plan(model), Progress(Console(file=said)), [8000], held)
    await stack._pin_model()
    judged = ("--calibration", str(file)) if calibrated == "its own" else ()
    config = str(data.config / "dispatcher.yaml")
    pin = ("dispatcher", "model", "pin", "tiny.gguf", digest, "--job-type")
    assert ran == [(*pin, "opml", *judged, "-c", config)]
    if calibrated == "its own":
        assert stack.warning is None
        assert said.getvalue().endswith(f"SHA-256 {digest[:16]}…, calibrated\n")
    else:
        assert (
            f"every verdict will be inconclusive: move on like this, or stop and run aos calibrate {model}"
            in str(stack.warning)
        )
        assert said.getvalue().endswith("without a calibration\n")


async def test_a_calibration_that_cannot_be_read_stops_the_start(data: DataFolder, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"tiny")
    (tmp_path / "tiny.calibration.json").write_text("{}")
    with ExitStack() as held:
        stack = Stack(data, Plan(model), Progress(Console(file=io.StringIO())), [8000], held)
    with pytest.raises(CliError, match=r"tiny.calibration.json cannot be used: .*; move it away"):
        await stack._pin_model()


def stack_of(data: DataFolder, plan: Plan) -> Stack:
    with ExitStack() as held:
        return Stack(data, plan, Progress(Console(file=io.StringIO())), [8000], held)


def test_enclaves_are_simulated_and_each_has_an_operator_of_its_own(data: DataFolder, tmp_path: Path) -> None:
    both = stack_of(data, Plan(tmp_path / "tiny.gguf", operators=1, enclaves=2))
    assert both.names == ["operator-1", "enclave-1", "enclave-2"]
    assert list(both._workers) == ["worker", "tee-worker-1", "tee-worker-2"]
    command = both._workers["tee-worker-2"]._command
    assert Path(command[0]).name == "tee-worker"
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--enclave"], options["--simulator"]) == ("simulated", str(data.simulator))
    assert Path(options["--uds"]).name == "tee-worker-2.sock"
    alone = stack_of(data, Plan(tmp_path / "tiny.gguf", operators=0, enclaves=1))
    assert (alone.names, list(alone._workers)) == (["enclave-1"], ["tee-worker-1"])
    assert list(stack_of(data, Plan(tmp_path / "tiny.gguf"))._workers) == ["worker"]


async def test_an_enclave_s_operator_is_one_for_tee_jobs(
    data: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    async def run(*_command: str) -> str:
        return ""

    monkeypatch.setattr(stack_module, "run_command", run)
    monkeypatch.setattr(Stack, "_start", lambda _self, child: started.append(child.name))
    monkeypatch.setattr(
        EmbeddedPostgres, "url", lambda _self, name: f"postgresql://postgres@/{name}?host=/run"
    )
    monkeypatch.setattr(EmbeddedValkey, "url", lambda _self: "unix:///run/valkey.sock?db=0")
    data.keystore("enclave-1").write_text(f'{{"address": "{OPERATOR.address[2:].lower()}"}}')
    stack = stack_of(data, Plan(tmp_path / "tiny.gguf", enclaves=1))
    for name in ("enclave-1", "operator-1"):
        await stack._start_operator(name)
    enclave, usual = (
        load_settings(data.config / f"{name}.yaml", OperatorSettings) for name in ("enclave-1", "operator-1")
    )
    assert (enclave.node.node_type, usual.node.node_type) == ("tee", "opml")
    assert enclave.net.worker_url.endswith("/tee-worker-1.sock")
    assert usual.net.worker_url.endswith("/worker.sock")
    assert started == ["enclave-1", "operator-1"]


async def test_the_policy_trusts_the_stack_s_own_enclaves_for_its_model_only(
    data: DataFolder, tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"tiny")
    file = await stack_of(data, Plan(model, enclaves=1))._write_policy()
    assert file == data.policy
    assert mode(file) == 0o600
    policy = load_settings(file, AttestationPolicy)
    assert policy.allow_simulated
    [(name, trusted)] = policy.models.items()
    assert (name, trusted.sha256) == ("tiny.gguf", hashlib.sha256(b"tiny").hexdigest())
    assert trusted.simulated is not None
    assert trusted.nitro is trusted.tdx is trusted.sev_snp is None
    assert trusted.simulated.roots == [ensure_root(data.simulator)]
    assert [build.measurements for build in trusted.simulated.builds] == [measurements()]
    written = load_settings(
        write_dispatcher(data, "postgresql://postgres@/d?host=/run", 8123, policy=file), DispatcherSettings
    )
    assert written.attestation.policy == file
    assert await stack_of(data, Plan(model))._write_policy() is None
    assert not data.policy.exists()
    await stack_of(data, Plan(model))._write_policy()


async def test_a_simulator_that_cannot_be_used_stops_the_start(data: DataFolder, tmp_path: Path) -> None:
    data.simulator.mkdir()
    (data.simulator / "root.pem").write_text("no certificate")
    with pytest.raises(StackError, match=str(data.simulator.name)):
        await stack_of(data, Plan(tmp_path / "tiny.gguf", enclaves=1))._write_policy()


async def test_a_model_is_pinned_for_each_type_of_job_that_somebody_works_on(
    data: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []

    async def run(*command: str) -> str:
        ran.append(command)
        return ""

    monkeypatch.setattr(stack_module, "run_command", run)
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"tiny")
    for operators, enclaves in ((1, 1), (0, 2), (3, 0)):
        await stack_of(data, Plan(model, operators, enclaves))._pin_model()
    types = [command[command.index("--job-type") + 1] for command in ran]
    assert types == ["opml", "tee", "tee", "opml"]


@pytest.mark.parametrize("folder", ["x" * 120, "a?b", "a#b", "a%b"])
def test_a_path_that_no_socket_s_url_can_hold_is_avoided(tmp_path: Path, folder: str) -> None:
    with ExitStack() as held:
        path = stack_module._socket_folder(tmp_path / folder, held)
        assert path.is_dir()
        assert len(os.fsencode(path / "tee-worker-16.sock")) <= 100
        assert set("?#%").isdisjoint(str(path))
    assert not path.exists()


def test_the_first_of_many_errors_is_told() -> None:
    first, second = ValueError("first"), ValueError("second")
    nested = BaseExceptionGroup("", [BaseExceptionGroup("", [first]), second])
    assert stack_module._first(nested) is first


def test_a_command_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aos_cli.commands.sysconfig.get_path", lambda _which: str(tmp_path))
    with pytest.raises(StackError, match=r"dispatcher is missing: install aos with the extra `all`"):
        program("dispatcher")


async def test_a_command_s_output_comes_back_and_its_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "dispatcher"
    script.write_text('#!/bin/sh\n[ "$1" = fail ] && { echo why >&2; exit 3; }\necho "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr("aos_cli.commands.sysconfig.get_path", lambda _which: str(tmp_path))
    assert await run_command("dispatcher", "project", "create") == "project create\n"
    with pytest.raises(StackError, match=r"^dispatcher fail now failed with status 3: why$"):
        await run_command("dispatcher", "fail", "now")


async def test_a_cancelled_command_does_not_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "dispatcher"
    script.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 60\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr("aos_cli.commands.sysconfig.get_path", lambda _which: str(tmp_path))
    running_command = asyncio.create_task(run_command("dispatcher"))
    while not (tmp_path / "pid").exists():
        await asyncio.sleep(0.01)
    running_command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_command
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_the_running_stack_is_the_default_dispatcher(data: DataFolder) -> None:
    write_private(data.token_file, "aos_local\n")
    with data.announced(running()):
        found = find_target(data.root, None)
        assert (found.url, found.address) == ("http://127.0.0.1:8000", DISPATCHER.address)
        assert (found.token, found.project, found.model) == ("aos_local", "demo", "tiny.gguf")
        assert find_target(data.root, "http://127.0.0.1:8000/") == found
        given = find_target(data.root, None, address=OPERATOR.address, project="shop", token="aos_given")
        assert (given.address, given.project, given.token) == (OPERATOR.address, "shop", "aos_given")


def test_another_dispatcher_gets_no_token_and_no_address_of_ours(data: DataFolder) -> None:
    write_private(data.token_file, "aos_local\n")
    with data.announced(running()):
        found = find_target(data.root, "http://127.0.0.1:9000")
    assert (found.url, found.address, found.token, found.project, found.model) == (
        "http://127.0.0.1:9000",
        None,
        None,
        None,
        None,
    )


def test_no_dispatcher_anywhere(data: DataFolder) -> None:
    with pytest.raises(
        NoDispatcher, match=r"no stack runs on .*: start one with `aos up`, or name one with --dispatcher"
    ):
        find_target(data.root, None)


def test_the_token_comes_from_the_file_first(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("aos_file\n")
    assert read_token(file, "aos_environment") == "aos_file"
    assert read_token(None, "aos_environment") == "aos_environment"
    assert read_token(None, "") is None
    assert read_token(None, None) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", b"\xff"])
def test_a_token_file_with_anything_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(
        CliError, match=r"the token file .* (must hold one API token and nothing else|cannot be read)"
    ):
        read_token(file, None)
    with pytest.raises(CliError, match=r"cannot be read"):
        read_token(tmp_path / "missing", None)
