"""`aos up` as its user meets it: every other command beside it."""

import json
import re
import stat
from pathlib import Path

import httpx
import pytest

from acceptance.processes import CHECKS, Network, run_aos

STRANGER = "0x00000000000000000000000000000000000000AA"


@pytest.fixture(scope="module")
def job_id(network: Network) -> str:
    """A completed job, as `aos submit` printed it."""
    submitted = network.aos("submit", "What is AI?", "--top-p", "0.5", "--max-tokens", "1024", "--wait")
    assert submitted.returncode == 0, submitted.stderr
    head, answer = submitted.stdout.split("\n\n", 1)
    job_id, _, *rows = head.split("\n")
    assert re.fullmatch("[0-9a-f]{64}", job_id)
    parsed = [
        re.fullmatch(r"(0x\w{40})  (\w+) +match +(?:\d of \d verifiers: )?\d+ fingerprints are .*", row)
        for row in rows
    ]
    (executor, *verifiers) = [(row[1], row[2]) for row in parsed if row]
    assert executor[1] == "executor"
    assert {role for _, role in verifiers} == {"verifier"}
    assert len(parsed) == 1 + len(verifiers) > 1
    operator, text = answer.split("\n", 1)
    assert operator == executor[0]
    assert len(text.split()) > 5
    assert re.fullmatch(r"number \d+, receipt signed by 0x\w{40}\nverdict: match\. .+\n", submitted.stderr)
    return job_id


def test_up_says_what_runs_and_shows_a_new_token(network: Network) -> None:
    said = network.program.output
    for part in ("PostgreSQL", "Valkey", "worker", "keys", "dispatcher", "model", "operators"):
        assert re.search(rf"^  {part} +\d+\.\d s", said, re.MULTILINE)
    assert f"token    {network.token}   (shown this once)" in said


def test_secrets_are_their_owner_s_alone(network: Network) -> None:
    secret = [
        network.data / "token",
        *(network.data / "keys").iterdir(),
        *(network.data / "config").iterdir(),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    logs = "".join(path.read_text() for path in (network.data / "logs").iterdir())
    password = (network.data / "keys" / "password").read_text().strip()
    assert network.token not in logs
    assert password not in logs


def test_result_shows_the_answer(network: Network, job_id: str) -> None:
    shown = network.aos("result", job_id)
    rows = json.loads(network.aos("result", job_id, "--json").stdout)
    assert {row["job_id"] for row in rows} == {job_id}
    assert rows[0]["result"].strip() in shown.stdout
    assert rows[0]["operator"] in shown.stdout


def test_detail_shows_the_request_and_the_verdict(network: Network, job_id: str) -> None:
    shown = network.aos("detail", job_id)
    detail = json.loads(shown.stdout)
    assert (detail["status"], detail["job"]["prompt"]) == ("completed", "What is AI?")
    assert (detail["verdict"]["outcome"], detail["verdict"]["level"]) == ("match", "fingerprint")
    assert shown.stderr.startswith("verdict: match. The verifiers ran the same prompt and tokens ")
    assert detail["job"]["params"] == {"top_p": 0.5, "max_tokens": 1024}


def test_verify_passes_every_check(network: Network, job_id: str) -> None:
    verified = network.aos("verify", job_id, "--json")
    table = json.loads(verified.stdout)
    assert verified.returncode == 0
    assert table["passed"] is True
    assert [(check["id"], check["status"]) for check in table["checks"]] == [
        (name, "PASS") for name in CHECKS
    ]
    (look,) = table["rounds"]
    assert (look["round"], look["verdict"]) == ("the job, audited", "match")
    shown = network.aos("verify", job_id).stdout
    assert re.match(r"the job, audited\n0x\w{40}  executor +\n0x\w{40}  verifier  match  ", shown)
    assert shown.count("PASS") == len(CHECKS)


def test_verify_fails_for_a_dispatcher_that_was_not_expected(network: Network, job_id: str) -> None:
    verified = network.aos("verify", job_id, "--dispatcher-address", STRANGER)
    assert verified.returncode == 1
    assert re.match(f"FAIL  AOS-DOCUMENT-1 .*not of {STRANGER}", verified.stdout)
    assert verified.stderr == "error: not every check passed: this job is not verified\n"


def test_a_dispatcher_known_by_its_url_only_verifies_nothing(
    network: Network, job_id: str, tmp_path: Path
) -> None:
    verified = run_aos("verify", job_id, "--dispatcher", network.url)
    assert verified.returncode == 1
    assert re.search("^SKIP  AOS-PIN-1 +no address was given", verified.stdout, re.MULTILINE)
    assert verified.stdout.count("PASS") == len(CHECKS) - 1
    assert verified.stdout.count("FAIL") == 0


def test_submit_with_everything_named_needs_no_data_folder(network: Network, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(network.token)
    named = ["--dispatcher", network.url, "--project", "demo", "--model", network.model]
    said = run_aos("submit", "What is AI?", *named, "--token-file", str(token), "--idempotency-key", "one")
    again = run_aos(
        "submit", "What is AI?", *named, "--idempotency-key", "one", environment={"AOS_TOKEN": network.token}
    )
    assert said.returncode == 0, said.stderr
    assert "whether that is the one you trust is for --dispatcher-address to say" in said.stderr
    assert again.stdout == said.stdout
    cancelled = network.aos("cancel", said.stdout.strip())
    assert cancelled.stdout in {"cancelled\n", "completed\n"}


def test_the_api_s_own_words_are_one_line(network: Network, job_id: str) -> None:
    refused = network.aos("submit", "What is AI?", "--model", "none.gguf")
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: no operator has announced model 'none.gguf' for job type 'opml'; there is: "
        f"{network.model} (opml) (422)\n"
    )
    wrong = network.aos("submit", "What is AI?", environment={"AOS_TOKEN": "wrong"})
    assert "the API token is not known here" in wrong.stderr
    strange = network.aos("submit", "What is AI?", "--dispatcher-address", STRANGER)
    assert strange.returncode == 1
    assert strange.stdout == ""
    assert f"not of {STRANGER}: do not rely on this job" in strange.stderr


def test_doctor_finds_everything_well(network: Network) -> None:
    port = network.url.rpartition(":")[2]
    operator = str(network.data / "config" / "operator-1.yaml")
    looked = network.aos("doctor", "--port", port, "-c", operator)
    assert looked.returncode == 0, looked.stdout
    found = {line[6:28].strip(): (line[:4], line[29:]) for line in looked.stdout.splitlines()}
    assert found.pop("chain")[0] == "SKIP"  # this network has none
    assert found.pop("anvil")[0] in {"PASS", "SKIP"}
    assert {status for status, _ in found.values()} == {"PASS"}
    assert found["port"][1] == f"{port} is that of the running `aos up`"
    assert found["operators"][1] == "3 connected"
    assert found["models"][1] == f"{network.model} (opml)"
    assert list(found)[-6:] == [
        "operator settings",
        "operator key",
        "operator database",
        "operator queue",
        "operator worker",
        "operator dispatcher",
    ]


def test_a_second_up_on_the_same_data_is_refused(network: Network) -> None:
    second = network.aos("up")
    assert second.returncode == 1
    pid = network.program.process.pid
    assert f"runs on {network.data} already, at {network.url} (process {pid}): use that one" in second.stderr


def test_the_api_describes_itself(network: Network) -> None:
    paths = httpx.get(f"{network.url}/openapi.json").json()["paths"]
    jobs = {"submit", "result", "detail", "verify", "challenge", "cancel", "evidence/{job_id}"}
    operators = {"/api/operator/appeal", "/api/operator/standing/{address}"}
    assert {f"/api/job/{name}" for name in jobs} | operators <= set(paths)
    assert httpx.get(f"{network.url}/docs").is_success
