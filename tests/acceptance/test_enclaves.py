"""Simulated enclaves on real processes: the demo, attestation from outside, an enclave that is killed, and kept data."""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from acceptance.parts import Parts, started
from acceptance.processes import CHECKS, Network, Program, left_of, shown

TEE_CHECKS = [*CHECKS]
TEE_CHECKS[TEE_CHECKS.index("AOS-VERDICT-1") : TEE_CHECKS.index("AOS-VERDICT-1")] = [
    "AOS-ENCLAVE-1",
    "AOS-ATTEST-1",
]
"""What `aos verify --policy` checks of an audited job that an enclave answered, in order."""

UNSEEN = {"AOS-TRANSCRIPT-1", "AOS-SCORE-1", "AOS-VERDICT-1", "AOS-MATCH-1"}
"""What nobody can check of a private job, for nobody but its project can read it."""


def demo_checks(*options: str) -> tuple[Program, list[str]]:
    """Run `aos demo` to its end; what it checked, all of which passed."""
    with Program("aos", "demo", *options) as demo:
        demo.read_until("submit")
        family = demo.family()
        assert demo.wait() == 0, demo.output
    rows = [line.split()[:2] for line in demo.lines if re.match("PASS|FAIL|SKIP", line)]
    assert {status for status, _ in rows} == {"PASS"}
    assert left_of(family) == []
    return demo, [name for _, name in rows]


def test_the_demo_in_enclaves_passes_and_says_that_they_are_simulated() -> None:
    demo, names = demo_checks("--tee")
    mine = [TEE_CHECKS[0], "AOS-REQUEST-1", *TEE_CHECKS[1:], "AOS-FILE-1", "AOS-CALIBRATION-1"]
    assert names == mine
    assert (
        demo.lines[0]
        == "a network on this machine: dispatcher, two SIMULATED enclaves, each with an operator"
    )
    assert re.search(r"^  enclaves +\d+\.\d s +2 SIMULATED, which prove nothing", demo.output, re.MULTILINE)
    assert not re.search(r"^  worker ", demo.output, re.MULTILINE)
    assert re.search(r"^PASS  AOS-ATTEST-1 .*of kind simulated .SIMULATED: ", demo.output, re.MULTILINE)
    assert re.search(
        r"^The enclaves are SIMULATED: .* proves nothing about hardware\.$", demo.output, re.MULTILINE
    )


def test_the_private_demo_passes_and_shows_the_answer() -> None:
    demo, names = demo_checks("--tee", "--private")
    expected = [name for name in TEE_CHECKS if name not in UNSEEN]
    assert names == [expected[0], "AOS-REQUEST-1", *expected[1:], "AOS-SEALED-1", "AOS-FILE-1"]
    assert re.search(
        r"^  seal +\d+\.\d s   to 2 of 2 enclaves, attested just now$", demo.output, re.MULTILINE
    )
    assert re.search(r"^0x\w{40}\n\w.{40,}", demo.output, re.MULTILINE)
    assert re.search(
        r"^sealed: only the enclave and the project .* is SIMULATED and", demo.output, re.MULTILINE
    )


@pytest.fixture(scope="module")
def network(demo_model: Path) -> Iterator[Network]:
    """A running `aos up` with enclaves beside the usual operators."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        options = ("--operators", "1", "--enclaves", "2", "--model", str(demo_model))
        with Program("aos", "up", "--data", str(data), "--port", "0", *options) as program:
            program.read_until("stop:")
            yield Network(program, data)
            assert program.interrupt(signal.SIGTERM) == 0


def test_enclaves_behind_a_dispatcher_are_attested(network: Network) -> None:
    said = network.aos("attest")
    assert said.returncode == 0, said.stdout
    rows = [line.split() for line in said.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["PASS", "PASS"]
    assert {row[2] for row in rows} == {"SIMULATED"}
    assert len({row[1] for row in rows}) == 2


def test_a_worker_is_attested_itself(network: Network) -> None:
    said = network.aos("attest", f"unix://{network.data}/run/tee-worker-1.sock")
    assert said.returncode == 0, said.stdout
    usual = network.aos("attest", f"unix://{network.data}/run/worker.sock")
    assert usual.returncode == 1
    assert "is it a tee-worker?" in usual.stderr


@pytest.mark.parametrize("wrong", ["root", "build", "simulated"])
def test_a_policy_that_wants_something_else_trusts_none(network: Network, tmp_path: Path, wrong: str) -> None:
    policy = yaml.safe_load((network.data / "config" / "attestation-policy.yaml").read_text())
    trusted = policy["models"][network.model]["simulated"]
    if wrong == "root":
        trusted["roots"] = ["ab" * 32]
    elif wrong == "build":
        trusted["builds"][0]["measurements"]["pcr0"] = "ab" * 48
    else:
        policy["allow_simulated"] = False
        policy["models"][network.model] = {"nitro": {"builds": trusted["builds"]}}
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    for where in ((), (f"unix://{network.data}/run/tee-worker-1.sock",)):
        said = network.aos("attest", *where, "--policy", str(file))
        assert said.returncode == 1
        assert "PASS" not in said.stdout
        assert "FAIL" in said.stdout
    private = network.aos("submit", "?", "--private", "--wait", "--policy", str(file))
    assert private.returncode == 1
    assert "error: the prompt was not sent: no enclave for model" in private.stderr


def test_a_tee_job_beside_usual_ones(network: Network) -> None:
    said = network.aos("submit", "What is AI?", "--job-type", "tee", "--top-p", "0.5", "--wait")
    assert said.returncode == 0, said.stderr
    assert re.search(r"^0x\w{40}  executor  SIMULATED  match ", said.stdout, re.MULTILINE)
    job_id = said.stdout.split("\n", 1)[0]
    verified = network.aos("verify", job_id)
    assert verified.returncode == 0, verified.stdout
    assert re.findall(r"^PASS  (\S+)", verified.stdout, re.MULTILINE) == TEE_CHECKS
    usual = network.aos("submit", "What is AI?", "--top-p", "0.5", "--wait")
    assert usual.returncode == 0, usual.stderr
    assert "SIMULATED" not in usual.stdout


def test_the_doctor_says_what_an_operator_s_enclave_is(network: Network) -> None:
    port = network.url.rpartition(":")[2]
    looked = network.aos("doctor", "--port", port, "-c", str(network.data / "config" / "enclave-1.yaml"))
    assert looked.returncode == 0, looked.stdout
    assert re.search(
        r"^PASS  operator enclave +SIMULATED, which proves nothing: ", looked.stdout, re.MULTILINE
    )
    assert re.search(r"^PASS  models .*\(opml\).*\(tee\)", looked.stdout, re.MULTILINE)


def test_logs_of_enclaves_say_that_they_are_simulated(network: Network) -> None:
    for number in (1, 2):
        assert "SIMULATED" in (network.data / "logs" / f"tee-worker-{number}.log").read_text()


def enclaves_of(supervisor: int) -> list[int]:
    """The enclave processes that a `tee-worker` has started."""
    children = shown([supervisor], f"task/{supervisor}/children").get(supervisor, b"").split()
    commands = shown(map(int, children), "cmdline")
    return [pid for pid, said in commands.items() if b"aos_tee_worker.enclave" in said]


def test_a_stack_goes_on_with_and_without_enclaves(data: Path, demo_model: Path) -> None:
    """Kept data, with enclaves, without and with them again; then one is killed, and at last its supervisor."""
    options = ("--data", str(data), "--port", "0", "--operators", "1", "--model", str(demo_model))
    policy, root = data / "config" / "attestation-policy.yaml", data / "simulator" / "root.pem"
    with Program("aos", "up", *options, "--enclaves", "1") as up:
        up.read_until("stop:")
        assert submit_tee(Network(up, data)).returncode == 0
        made = root.read_bytes()
        assert up.interrupt(signal.SIGTERM) == 0
    with Program("aos", "up", *options, "--enclaves", "0") as up:
        up.read_until("stop:")
        said = submit_tee(Network(up, data))
        assert said.returncode == 1
        assert "has no attestation policy, so it takes no tee jobs" in said.stderr
        assert not policy.exists()
        assert up.interrupt(signal.SIGTERM) == 0
    with Program("aos", "up", *options, "--enclaves", "1") as up:
        up.read_until("stop:")
        assert root.read_bytes() == made
        assert_only_supervisors_matter(up, data)


def submit_tee(network: Network) -> subprocess.CompletedProcess[str]:
    return network.aos("submit", "What is AI?", "--job-type", "tee", "--top-p", "0.5", "--wait")


def assert_only_supervisors_matter(up: Program, data: Path) -> None:
    """An enclave that is killed lives again, with other keys; the end of its supervisor ends the stack."""
    network, family = Network(up, data), up.family()
    [supervisor] = [pid for pid in family if enclaves_of(pid)]
    [enclave] = enclaves_of(supervisor)
    worker = f"unix://{data}/run/tee-worker-1.sock"
    before = keyset_of(network, worker)
    os.kill(enclave, signal.SIGKILL)
    assert left_of({enclave: family[enclave]}) == []
    assert keyset_of(network, worker) != before
    assert submit_tee(network).returncode == 0
    family = up.family()
    os.kill(supervisor, signal.SIGKILL)
    assert up.wait() == 1
    assert "error: tee-worker-1 ended with status -9. Its log, " in up.output
    assert left_of(family) == []


def keyset_of(network: Network, worker: str) -> str:
    said = network.aos("attest", worker)
    assert said.returncode == 0, said.stderr
    [keyset] = re.findall(r" ([0-9a-f]{16})…  \d+ s", said.stdout)
    return str(keyset)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(demo_model: Path) -> AsyncIterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="aos-test-") as place, closing(socket.socket()) as holder:
        folder = Path(place)
        folder.chmod(0o711)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        async with started(folder, holder.getsockname()[1], demo_model, tee=True) as network:
            yield network


@pytest.mark.asyncio(loop_scope="module")
async def test_an_enclave_that_is_killed_in_the_middle_of_jobs(parts: Parts) -> None:
    """Its jobs go to others, or fail with a reason; it is started again, which its metrics say."""
    jobs = [await parts.submit() for _ in range(9)]
    number, enclave = await busy_enclave(parts, jobs)
    os.kill(enclave, signal.SIGKILL)
    ended = [await parts.ended(job_id) for job_id in jobs]
    assert "completed" in {status for status, _ in ended}, ended
    assert all(reason for status, reason in ended if status != "completed")
    for job_id, (status, _) in zip(jobs, ended, strict=True):
        if status == "completed":
            await parts.completed(job_id)
    async with parts.worker(number) as worker:
        metrics = (await worker.get("/metrics")).text
        assert (await worker.get("/attestation", params={"nonce": "5" * 64})).status_code == 200
    assert 'aos_enclave_restarts_total{reason="crashed"} 1\n' in metrics
    assert 'aos_enclave_kind{kind="simulated"} 1\n' in metrics
    await parts.completed(await parts.submit())


async def busy_enclave(parts: Parts, jobs: list[str]) -> tuple[int, int]:
    """Submit further jobs until an enclave is seen to run one; its worker's number, and its process."""
    async with AsyncExitStack() as open_workers:
        workers = {
            number: await open_workers.enter_async_context(parts.worker(number))
            for number in parts.operators.values()
        }
        while True:
            for number, worker in workers.items():
                if (await worker.get("/healthz")).json()["active"]:
                    supervisor = parts.children[f"worker-{number}"].pid
                    assert supervisor is not None
                    [enclave] = enclaves_of(supervisor)
                    return number, enclave
            jobs.append(await parts.submit())
