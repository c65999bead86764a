"""A private job on real processes: everything that they keep, write down and say is searched for prompt and answer.

The same search is made for a job that is not private, and finds it: a search that finds nothing because it looks in the wrong place
would prove nothing.
"""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from acceptance.parts import DATABASE_PASSWORD, PUBLISHED, Parts, started
from acceptance.processes import ANSWER_S, command
from acceptance.test_secrets import key_forms
from acceptance.traces import below, commands, digests, files, forms, found, tables, values
from acceptance.wire import Recorder
from aos_cli.private import read_key
from aos_protocol.attestation.statement import Keyset
from aos_protocol.errors import NotSealed
from aos_protocol.fields import parse_message
from aos_protocol.job import Params, Sealed
from aos_protocol.sealing import SealingKey, open_answer, seal_prompt

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "the vault on Alder Street opens at 7:41"
MARKER = f'Käthe whispered: "{SECRET}"'
PROMPT = f"What is AI?\n{MARKER}"
SAMPLING = ("--temperature", "0", "--max-tokens", "48")
"""Greedy, so that the same prompt has the same answer whoever asks."""


@dataclass
class Job:
    """A job that has ended, its answer as its project reads it, and everything that there was to be seen until then."""

    id: str
    answer: str
    traces: dict[str, bytes]


@dataclass
class Place:
    """The network, what stands on its wires, and what its Redis is told."""

    parts: Parts
    recorder: Recorder
    told: list[bytes]

    async def aos(self, *arguments: str, prompt: str = "") -> tuple[int, str, str]:
        """Run an `aos` command against this network; its status, stdout and stderr."""
        named = {"AOS_TOKEN": self.parts.token, "AOS_DATA": str(self.parts.folder / "nobody")}
        process = await asyncio.create_subprocess_exec(
            *command("aos", *arguments),
            "--dispatcher",
            f"http://127.0.0.1:{self.parts.reached}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | named,
        )
        output, errors = await process.communicate(prompt.encode())
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def submit(self, *more: str) -> str:
        """Submit the prompt, given on standard input, and wait; stdout."""
        named = ("--project", PUBLISHED["from"], "--model", PUBLISHED["job"]["model"], *SAMPLING)
        address = ("--dispatcher-address", self.parts.dispatcher_key.address)
        status, output, errors = await self.aos(
            "submit", "-", "--wait", *named, *address, *more, prompt=PROMPT
        )
        assert status == 0, errors
        return output

    async def traces(self) -> dict[str, bytes]:
        """Everything that there is to be seen."""
        folder = self.parts.folder
        client = Redis.from_url(self.parts.queue)
        try:
            kept = await values(client)
        finally:
            await client.aclose()
        logs = sorted(folder.glob("*.log*"))
        rest = [path for path in below(folder) if path.is_file() and path.name != "reply-key"]
        return await asyncio.to_thread(self.recorder.read) | {
            "the dispatcher's tables": await tables(self.parts.database),
            "the operators' tables": await tables(self.parts.operators_database),
            "Redis": kept,
            "what Redis was told": b"\n".join(self.told),
            "logs": await asyncio.to_thread(files, logs),
            "all files": await asyncio.to_thread(files, rest),
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(demo_model: Path) -> AsyncIterator[Place]:
    recorder = Recorder()
    with tempfile.TemporaryDirectory(prefix="aos-test-") as name, closing(socket.socket()) as holder:
        folder = Path(name)
        folder.chmod(0o711)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        async with started(folder, port, demo_model, tee=True, recorder=recorder) as parts:
            client = Redis.from_url(parts.queue)
            async with commands(client) as told:
                yield Place(parts, recorder, told)
            await client.aclose()
            await recorder.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def private(place: Place) -> Job:
    key = place.parts.folder / "reply-key"
    output = await place.submit("--private", "--policy", str(place.parts.policy), "--reply-key", str(key))
    return await ended(place, output)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def public(place: Place, private: Job) -> Job:
    """The same prompt in the same network, after all of the private job was looked at."""
    return await ended(place, await place.submit("--job-type", "tee"))


async def ended(place: Place, output: str) -> Job:
    head, _, shown = output.partition("\n\n")
    answer = shown.split("\n", 1)[1].strip()
    assert len(answer) > 40, output
    return Job(head.split("\n", 1)[0], answer, await place.traces())


def secrets_of(job: Job) -> dict[str, bytes]:
    """What nobody but the project and the enclave may see of a private job, under names that say what and how."""
    piece = max(job.answer.splitlines(), key=len)[:60]
    texts = {"marker": MARKER, "secret": SECRET, "prompt": PROMPT, "answer": piece}
    said = {f"{what}, {how}": form for what, text in texts.items() for how, form in forms(text).items()}
    said |= {f"prompt, {how}": form for how, form in digests(PROMPT).items()}
    return said | {f"answer, {how}": form for how, form in digests(job.answer).items()}


async def test_the_project_reads_its_answer_and_later_again(place: Place, private: Job) -> None:
    key = str(place.parts.folder / "reply-key")
    status, output, errors = await place.aos("result", private.id, "--reply-key", key)
    assert status == 0, errors
    assert output.endswith(f"\n{private.answer}\n")
    assert "SIMULATED" in output
    status, without, _ = await place.aos("result", private.id)
    assert status == 0
    assert "(sealed: --reply-key FILE opens it" in without


async def test_prompt_and_answer_are_nowhere(private: Job) -> None:
    assert found(private.traces, secrets_of(private)) == {}


async def test_the_search_looked_at_this_job_everywhere(private: Job) -> None:
    assert set(private.traces) == {
        "project and dispatcher",
        "operator and enclave",
        "/ws",
        "the dispatcher's tables",
        "the operators' tables",
        "Redis",
        "what Redis was told",
        "logs",
        "all files",
    }
    job_id = {"id": private.id.encode()}
    assert set(found(private.traces, job_id)) >= set(private.traces) - {"Redis", "all files"}
    assert all(private.traces.values())


async def test_the_same_search_finds_a_job_that_is_not_private(public: Job) -> None:
    hits = found(public.traces, secrets_of(public))
    on_the_way = {"project and dispatcher", "/ws", "operator and enclave"}
    for place in (*on_the_way, "the dispatcher's tables"):
        assert {what.partition(",")[0] for what in hits[place]} >= {"secret", "marker"}, place
    assert "secret, plain" in hits["what Redis was told"]
    for place in (*on_the_way, "the dispatcher's tables", "the operators' tables"):
        assert "answer, plain" in hits[place], place
    for place in ("/ws", "the dispatcher's tables"):
        assert "prompt, SHA-512" in hits[place], place


async def test_the_tokens_of_prompt_and_answer_are_nowhere(place: Place, private: Job, public: Job) -> None:
    """Token ids are text to whoever has the model. The public job has the same ones."""
    assert public.answer == private.answer
    [frame] = (await place.parts.evidence(public.id))["rounds"][0]["results"]
    transcript = json.loads(frame)["params"][0]["transcript"]
    ids: dict[str, bytes] = {}
    for what in ("prompt_tokens", "output_tokens"):
        assert len(transcript[what]) > 8
        for between in (",", ", "):
            ids[f"{what} with {between!r}"] = between.join(map(str, transcript[what][-8:])).encode()
    ids["fingerprints"] = transcript["fingerprints"][:64].encode()
    assert found(private.traces, {what: said for what, said in ids.items() if what != "fingerprints"}) == {}
    assert {"prompt_tokens with ','", "output_tokens with ','", "fingerprints"} <= found(public.traces, ids)[
        "/ws"
    ]


async def test_keys_passwords_and_tokens_are_nowhere(place: Place, public: Job) -> None:
    """On the wires as well: the token goes from the project to the dispatcher, and a database's password stands in settings files."""
    parts = place.parts
    secrets = key_forms("the dispatcher's key", parts.dispatcher_key)
    for number, signer in enumerate(parts.operator_keys, start=1):
        secrets |= key_forms(f"key of operator {number}", signer)
    assert len(secrets) == 7 * 4
    for name, text in {"token": parts.token, "password": DATABASE_PASSWORD}.items():
        secrets |= {f"{name}, {how}": form for how, form in forms(text).items()}
    hits = found(public.traces, secrets)
    assert hits.keys() == {"project and dispatcher", "all files"}
    assert {name.partition(",")[0] for name in hits["project and dispatcher"]} == {"token"}
    assert {name.partition(",")[0] for name in hits["all files"]} == {"password"}
    holders = [path for path in below(parts.folder) if path.is_file() and path.suffix != ".yaml"]
    assert DATABASE_PASSWORD.encode() not in await asyncio.to_thread(files, holders)


async def asked_itself(place: Place, job_id: str, sealed: dict[str, Any] | None = None) -> httpx.Response:
    """Have the enclave that answered a job asked once more, as its own host could, with its sealed prompt or another."""
    document = await place.parts.evidence(job_id)
    result = json.loads(document["rounds"][0]["results"][0])["params"][0]
    job, domain = document["job"]["request"]["job"], document["domain"]
    body = {
        "model": job["model"],
        "params": job["params"],
        "sealed": sealed or job["sealed"],
        "seed": document["seed"]["value"],
        "prover": result["operator"],
        "execution": {"job_id": job_id, "chain_id": domain["chain_id"], "registry": domain["registry"]},
    }
    worker = place.parts.folder / f"worker-{place.parts.operators[result['operator']]}.sock"
    transport = httpx.AsyncHTTPTransport(uds=str(worker))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker", timeout=ANSWER_S) as client:
        return await client.post("/v1/generate", json=body)


async def test_a_swapped_reply_key_or_box_gets_a_refusal(place: Place, private: Job) -> None:
    sealed = (await place.parts.evidence(private.id))["job"]["request"]["job"]["sealed"]
    assert (await asked_itself(place, private.id)).status_code == 200
    own = SealingKey()
    refused = await asked_itself(place, private.id, sealed | {"reply_key": own.public})
    assert refused.status_code == 422, refused.text
    assert "does not open: it belongs to another model, other parameters" in refused.json()["message"]
    document = await place.parts.evidence(private.id)
    executor = json.loads(document["rounds"][0]["results"][0])["params"][0]["operator"]
    [other, *_] = [box["box"] for box in sealed["boxes"] if box["operator"] != executor]
    boxes = [box | {"box": other} if box["operator"] == executor else box for box in sealed["boxes"]]
    refused = await asked_itself(place, private.id, sealed | {"boxes": boxes})
    assert refused.status_code == 422, refused.text
    without = [box for box in sealed["boxes"] if box["operator"] != executor]
    refused = await asked_itself(place, private.id, sealed | {"boxes": without})
    assert refused.status_code == 422, refused.text


async def test_an_answer_to_a_prompt_of_the_host_s_own_does_not_open(place: Place, private: Job) -> None:
    """Its host can seal another prompt to the enclave, with the same reply key; the enclave answers, and nobody is deceived."""
    document = await place.parts.evidence(private.id)
    job = document["job"]["request"]["job"]
    result = json.loads(document["rounds"][0]["results"][0])["params"][0]
    statement = result["enclave"]["attestation"]["keyset"]
    keyset = parse_message(Keyset, statement)
    params = parse_message(Params, job["params"])
    forged = seal_prompt(
        {"prompt": "Say no."},
        (job["model"], params),
        job["sealed"]["reply_key"],
        [(result["operator"], keyset)],
    )
    answer = await asked_itself(place, private.id, forged.to_json())
    assert answer.status_code == 200, answer.text
    key = read_key(place.parts.folder / "reply-key")
    bound = {
        "seed": document["seed"]["value"],
        "prover": result["operator"],
        "keyset": keyset.digest(),
    }
    sealed = parse_message(Sealed, job["sealed"])
    assert open_answer(key, result["result"], sealed, **bound)["text"].strip() == private.answer
    with pytest.raises(NotSealed, match=r"does not open"):
        open_answer(key, answer.json()["sealed"], sealed, **bound)
