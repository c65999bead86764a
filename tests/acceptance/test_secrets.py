"""Keys, passwords and tokens of a network of real processes: all that it keeps, logs, answers and shows of itself is searched for them.

What goes over its wires is searched in `test_private`, whose network is built for that. The search is tried where the secrets do stand.
"""

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from acceptance.processes import ANSWER_S, Network, shown
from acceptance.traces import below, files, forms, found, tables, values
from aos_protocol.identity import Signer
from aos_service.keys import open_keystore

GUESSED = "aos_4fzNqS0bX9aT_" + "w" * 49
"""A token that nobody has; what is sent wrongly may be the right one somewhere else, so it is a secret, too."""


@dataclass
class Run:
    """What a network was asked, and all that there was to be seen afterwards."""

    secrets: dict[str, bytes]
    traces: dict[str, bytes]
    limits: dict[str, str]


def key_forms(name: str, signer: Signer) -> dict[str, bytes]:
    """A private key as it may stand somewhere: its bytes, and what is written for them."""
    written = {
        "hex": signer.secret.hex(),
        "HEX": signer.secret.hex().upper(),
        "decimal": str(int.from_bytes(signer.secret, "big")),
        "base64": base64.b64encode(signer.secret).decode().rstrip("="),
        "base64url": base64.urlsafe_b64encode(signer.secret).decode().rstrip("="),
        "list": ", ".join(map(str, signer.secret)),
    }
    return {f"{name}, raw": signer.secret} | {
        f"{name}, {how}": text.encode() for how, text in written.items()
    }


def secrets_of(network: Network) -> dict[str, bytes]:
    """Every secret of a network in every form, by names that say what and how."""
    keys = network.data / "keys"
    password = (keys / "password").read_text().strip()
    said: dict[str, bytes] = {}
    for file in sorted(keys.glob("*.json")):
        said |= key_forms(file.stem, open_keystore(file, password))
    for name, text in {"password": password, "token": network.token, "guessed token": GUESSED}.items():
        said |= {f"{name}, {how}": form for how, form in forms(text).items()}
    return said | {"token's secret": network.token[-49:].encode(), "guessed secret": GUESSED[-49:].encode()}


def provoke(network: Network) -> bytes:
    """Use a network rightly and wrongly, with secrets in every place where one may be sent; what it answers."""
    submitted = network.aos("submit", "What is AI?", "--max-tokens", "16", "--wait")
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.split("\n", 1)[0]
    operator = network.ask("/api/job/result", {"job_id": job_id})["result"][0]["operator"]
    answers = [submitted.stdout, submitted.stderr]
    with httpx.Client(base_url=network.url, trust_env=False, timeout=ANSWER_S) as client:
        reads = (f"job/evidence/{job_id}", f"operator/standing/{operator}", "log/head", "operators", "models")
        answers += [client.get(f"/api/{path}").text for path in reads]
        for token in (network.token, GUESSED):
            bearer = {"Authorization": f"Bearer {token}"}
            body: dict[str, Any] = {
                "from": "demo",
                "tag": "",
                "user": "ann",
                "job": {"tag": "opml"},
                "verify": token,
            }
            requests = [
                ("POST", "/api/job/submit", {"json": body}),
                ("POST", "/api/job/submit", {"content": json.dumps(body)[:-1]}),
                ("POST", "/api/job/cancel", {"json": {"job_id": job_id}}),
                ("POST", "/api/job/detail", {"json": {"job_id": token}}),
                ("GET", f"/api/job/evidence/{token}", {}),
                ("GET", f"/{token}", {}),
                ("GET", f"/healthz?token={token}", {}),
            ]
            for method, path, content in requests:
                answer = client.request(method, path, headers=bearer, **content)
                if path != f"/api/job/evidence/{token}":
                    answers.append(f"{answer.headers} {answer.text}")
        answers += [client.get(path).text for path in ("/metrics", "/openapi.json", "/readyz")]
    with connect(network.url.replace("http", "ws") + "/ws") as socket:
        answers.append(str(socket.recv()))
        socket.send(json.dumps({"id": "1", "method": "connect", "params": [{"token": GUESSED}]}))
        try:
            answers += [str(socket.recv(timeout=ANSWER_S)), str(socket.recv(timeout=ANSWER_S))]
        except ConnectionClosed as closed:
            answers.append(str(closed))
    return "\n".join(answers).encode()


async def kept(network: Network) -> dict[str, bytes]:
    """What its databases and its Redis hold."""
    config = network.data / "config"
    dispatcher = yaml.safe_load((config / "dispatcher.yaml").read_text())
    operator = yaml.safe_load((config / "operator-1.yaml").read_text())
    client = Redis.from_url(operator["queue"]["queue_url"])
    try:
        return {
            "the dispatcher's tables": await tables(dispatcher["database"]["url"]),
            "the operators' tables": await tables(operator["db"]["pg_db_url"]),
            "Redis": await values(client),
        }
    finally:
        await client.aclose()


def written(network: Network) -> dict[str, bytes]:
    """What stands in its files, but for those that are there to hold secrets."""
    own = {network.data / "token", *(network.data / "keys").iterdir()}
    all_ = [path for path in below(network.data) if path.is_file() and path not in own]
    logs = [path for path in all_ if path.parent == network.data / "logs"]
    assert len(logs) > 4
    return {"logs": files(logs), "all other files": files(sorted(set(all_) - set(logs)))}


def core_limits(family: dict[int, str]) -> dict[str, str]:
    """How large a core file each of our servers may leave: the soft and the hard limit, by program and process id."""
    limits = {}
    for pid, line in shown(family, "cmdline").items():
        programs = {Path(part).name for part in line.decode().split("\0")[:2]}
        for name in programs & {"dispatcher", "operator-runner", "inference-worker"}:
            said = shown([pid], "limits")[pid].decode().partition("core file size")[2]
            limits[f"{name} {pid}"] = " ".join(said.split()[:2])
    return limits


@pytest.fixture(scope="module")
def run(network: Network) -> Run:
    answers, family = provoke(network), network.program.family()
    processes = {"command lines": "cmdline", "environments": "environ"}
    traces = {"answers": answers}
    traces |= {name: b"\n".join(shown(family, what).values()) for name, what in processes.items()}
    traces |= written(network) | asyncio.run(kept(network))
    return Run(secrets_of(network), traces, core_limits(family))


def test_secrets_are_nowhere(run: Run) -> None:
    assert found(run.traces, run.secrets) == {}


def test_the_search_looked_at_what_it_names(run: Run, network: Network) -> None:
    dispatcher = (json.loads((network.data / "keys" / "dispatcher.json").read_text())["address"]).encode()
    assert all(run.traces.values())
    seen = {
        place for place, said in run.traces.items() if dispatcher.removeprefix(b"0x").lower() in said.lower()
    }
    assert seen >= {"answers", "logs", "all other files", "the dispatcher's tables", "the operators' tables"}
    assert b"operator-runner" in run.traces["command lines"]
    assert b"PATH=" in run.traces["environments"]
    assert len([name for name in run.secrets if name.endswith(", raw")]) == 4


def test_the_search_finds_secrets_where_they_stand(run: Run, network: Network) -> None:
    hits = found(
        {"token": files([network.data / "token"]), "keys": files((network.data / "keys").iterdir())},
        run.secrets,
    )
    assert "token, plain" in hits["token"]
    assert "password, plain" in hits["keys"]
    signer = Signer.generate()
    texts = [signer.secret.hex(), repr(list(signer.secret)), base64.b64encode(signer.secret).decode()]
    for text in texts:
        assert found({"somewhere": f"key={text};".encode()}, key_forms("a key", signer))


def test_no_process_with_a_key_leaves_a_core_file(run: Run) -> None:
    names = sorted(name.split()[0] for name in run.limits)
    assert names == ["dispatcher", "inference-worker", *["operator-runner"] * 3]
    assert set(run.limits.values()) == {"0 0"}
