"""`aos chat` on a real network: with an operator alone, of which nothing is kept, and through the gateway, of which it is."""

import json
import re
import subprocess
from typing import Any

from acceptance.processes import Network, command
from acceptance.traces import below, files, forms, found

SECRET = "Käthe keeps the key under the third flowerpot"
OPEN = "everybody may know that the shop opens at nine"


def kept(network: Network, text: str) -> dict[str, set[str]]:
    """Where a text stands in anything that the network has written: databases and their logs, Redis, configurations, logs."""
    written = {str(path): files([path]) for path in below(network.data) if path.is_file()}
    assert any(b"committee drawn" in said for said in written.values())
    return found(written, forms(text))


def chat(network: Network, *arguments: str) -> str:
    said = network.aos("chat", *arguments, "--max-tokens", "24")
    assert said.returncode == 0, said.stderr
    return said.stdout


def job_of(said: str) -> str:
    (job_id,) = re.findall(r"evidence: http://\S+/api/job/evidence/([0-9a-f]{64})", said)
    return str(job_id)


def test_what_is_said_to_an_operator_alone_is_written_down_nowhere(network: Network) -> None:
    """The same search finds what is said to everybody, or it would prove nothing."""
    for _ in range(5):
        said = chat(network, "--direct", SECRET)
        if "straight to http://127.0.0.1:" in said:
            break  # not where the operator took longer than the two seconds after which a relay is asked
    assert "straight to http://127.0.0.1:" in said
    assert re.search(r"signed by the operator: \d+ checks pass, 2 cannot be made", said)
    chat(network, OPEN)
    assert kept(network, SECRET) == {}
    assert kept(network, OPEN) != {}
    detail = network.settled(job_of(said))
    assert detail["status"] == "completed"
    assert set(detail["job"]) == {"tag", "model", "params", "direct"}


def test_nobody_needs_the_dispatcher_s_word_for_a_direct_job(network: Network) -> None:
    job_id = job_of(chat(network, "--direct", "What is AI?"))
    network.settled(job_id)
    checked = network.aos("verify", job_id, "--json")
    report: dict[str, Any] = json.loads(checked.stdout)
    unpassed = {check["id"]: check["status"] for check in report["checks"] if check["status"] != "PASS"}
    assert unpassed == {"AOS-TRANSCRIPT-1": "SKIP", "AOS-MATCH-1": "SKIP"}


def test_a_conversation_with_operators_alone_brings_along_what_was_said(network: Network) -> None:
    """Each question is a job of its own, with a session of its own."""
    done = subprocess.run(
        command("aos", "chat", "--direct", "--max-tokens", "8", "--data", str(network.data)),
        input="What is AI?\nAnd a cat?\n/exit\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jobs = re.findall(r"/api/job/evidence/([0-9a-f]{64})", done.stdout)
    assert len(set(jobs)) == 2
    keys = {network.settled(job_id)["job"]["direct"]["client_key"] for job_id in jobs}
    assert len(keys) == 2
