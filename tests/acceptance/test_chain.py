"""A network with a chain: `aos demo --chain`, then `aos up --chain` on what it kept, audited and looked at from outside."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.processes import CHECKS, COMMAND_S, Network, Program, command, left_of, run_aos
from support.anvil import anvil_program

CHAIN_CHECKS = [*CHECKS]
CHAIN_CHECKS.insert(CHECKS.index("AOS-LOG-1") + 1, "AOS-ANCHOR-1")
DEMO_CHECKS = [
    CHAIN_CHECKS[0], "AOS-REQUEST-1", *CHAIN_CHECKS[1:], "AOS-FILE-1", "AOS-CALIBRATION-1", "AOS-REGISTRY-1", "AOS-ANCHOR-2",
]  # fmt: skip
AUDITED_BESIDES = {"AOS-CHAIN-1", "AOS-FRESH-1", "AOS-DETAIL-1", "AOS-REGISTRY-1", "AOS-ANCHOR-2"}


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A data folder that outlives the command that filled it."""
    anvil_program()
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


@pytest.fixture(scope="module")
def demo(kept: Path) -> Program:
    """A demo that ran to its end."""
    with Program("aos", "demo", "--chain", "--keep", str(kept)) as demo:
        demo.read_until("submit")
        family = demo.family()
        assert demo.wait() == 0, demo.output
        assert left_of(family) == []
        return demo


def test_the_demo_asks_the_chain(demo: Program) -> None:
    found = re.findall(r"^(PASS|FAIL|SKIP)  (AOS-[A-Z]+-\d)", demo.output, re.MULTILINE)
    assert found == [("PASS", name) for name in DEMO_CHECKS]
    assert re.search(
        r"^  anvil .* chain 31337 at http://127\.0\.0\.1:\d+, a local test chain$", demo.output, re.MULTILINE
    )
    assert re.search(r"^  contracts .* registry 0x\w{40}, 3 operators registered$", demo.output, re.MULTILINE)
    assert re.search(r"^  anchor .* \d+ entries of the log, in block \d+$", demo.output, re.MULTILINE)
    assert (
        "whoever runs it can rewrite it. This shows how it goes, and proves nothing to others." in demo.output
    )


def test_a_network_goes_on_with_its_chain(demo: Program, kept: Path) -> None:
    [before] = re.findall(r"job ([0-9a-f]{64})", demo.output)
    contracts = json.loads((kept / "config" / "chain.json").read_text())
    with Program("aos", "up", "--chain", "--data", str(kept), "--port", "0") as up:
        up.read_until("stop:")
        family, network = up.family(), Network(up, kept)
        assert f"contracts in {kept}/config/chain.json" in up.output
        assert json.loads((kept / "config" / "chain.json").read_text()) == contracts
        job = network.aos("submit", "What is AI?", "--top-p", "0.5", "--wait").stdout.split()[0]
        for job_id in (before, job):
            _audit(network, job_id)
        _status(network, contracts)
        assert up.interrupt() == 0
    assert left_of(family) == []
    refused = run_aos("up", "--data", str(kept), "--port", "0")
    assert f"the network on {kept} has a chain, by which all that it signed is valid" in refused.stderr
    assert refused.returncode == 1


def _audit(network: Network, job_id: str) -> None:
    """Audit a job, once it is anchored: nothing fails, and nothing is skipped."""
    running = json.loads((network.data / "running.json").read_text())
    while True:
        done = subprocess.run(
            command(
                "aos-audit", job_id, "--json", "--strict",
                "--dispatcher", network.url, "--dispatcher-address", _address(network.data),
                "--token-file", str(network.data / "token"),
                "--rpc", running["rpc"], "--deployment", str(network.data / "config" / "chain.json"),
            ),
            capture_output=True, text=True, check=False, timeout=COMMAND_S,
        )  # fmt: skip
        checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
        # The dispatcher anchors every few seconds, and tells nobody.
        if checks["AOS-ANCHOR-1"]["status"] != "SKIP":
            break
    assert {name: check["what"] for name, check in checks.items() if check["status"] != "PASS"} == {}
    assert done.returncode == 0, done.stdout
    assert set(checks) == {*CHAIN_CHECKS, *AUDITED_BESIDES} - {"AOS-ANSWER-1"}


def _status(network: Network, contracts: dict[str, object]) -> None:
    shown = network.aos("chain", "status", "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["contracts"] == {
        name: contracts[name] for name in ("registry", "sortition", "anchor", "challenge")
    }
    shares = [(row["number"], row["start"], row["end"], row["bond"]) for row in found["operators"]]
    assert shares == [(2 + n, 200_000 * n, 200_000 * (n + 1), 2 * 10**18) for n in range(3)]
    [anchor] = found["anchors"]
    assert anchor["dispatcher"] == _address(network.data)
    assert anchor["log_size"] >= anchor["size"] > 0
    doctor = network.aos("doctor").stdout
    assert re.search(
        r"^PASS  chain +31337 at http://127\.0\.0\.1:\d+, block \d+: the contracts are there, operators registered: 3$",
        doctor,
        re.MULTILINE,
    )


def _address(data: Path) -> str:
    """The dispatcher's address, as its operators know it."""
    settings = (data / "config" / "operator-1.yaml").read_text()
    [address] = re.findall(r"^  dispatcher_address: '?(0x\w{40})", settings, re.MULTILINE)
    return str(address)
