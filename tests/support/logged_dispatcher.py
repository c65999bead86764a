"""A dispatcher that only shows: jobs told by stories, all in one log, with every way to cheat an auditor.

shown = LoggedDispatcher()
shown.job(Story.own)
client = DispatcherApi("http://shown", transport=httpx.MockTransport(shown.handle))

`serving(shown)` runs it as a real HTTP server on loopback.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from aos_protocol import merkle
from aos_protocol.log_entries import job_entries, model_entry, operator_entry
from aos_protocol.typed_data import Domain
from support.evidence import (
    CALIBRATION,
    DISPATCHER,
    DOMAIN,
    MODEL,
    Actor,
    Story,
    honest,
    rows_of,
    signed_head,
)

Answer = Callable[[dict[str, str]], Any]


class LoggedDispatcher:
    """Everything that it shows follows from `entries`, `documents` and the lists; `instead` has other answers for some paths.

    An answer is what stands as `result`, or an integer: an HTTP error.
    """

    def __init__(
        self, operators: int = 4, domain: Domain = DOMAIN, chain: dict[str, Any] | None = None
    ) -> None:
        self.domain = domain
        self.chain = chain
        self.crew = [Actor(number, honest, False, domain) for number in range(2, operators + 2)]
        self.operators = [{"operator": actor.address, "number": actor.number} for actor in self.crew]
        self.models = [
            {
                "name": MODEL.name,
                "job_type": "opml",
                "sha256": MODEL.sha256,
                "calibration": CALIBRATION.digest(),
            }
        ]
        self.standings = {actor.address: standing(actor) for actor in self.crew}
        self.entries = [operator_entry(actor.address, actor.number) for actor in self.crew]
        self.entries.append(model_entry(MODEL.name, "opml", MODEL.sha256, CALIBRATION.digest()))
        self.documents: dict[str, dict[str, Any]] = {}
        self.instead: dict[str, Answer] = {}
        self.asked: list[str] = []

    def job(self, *rounds: Callable[[Story], object], **how: Any) -> Story:
        """Have one more job held, and logged."""
        story = Story(crew=self.crew, sequence=len(self.documents) + 1, chain=self.chain, **how)
        for hold in rounds or (Story.own,):
            hold(story)
        self.publish(story)
        return story

    def publish(self, story: Story) -> None:
        """Log what a story's job has that is not in the log yet, and show its evidence."""
        document = story.document()
        self.entries += [entry for entry in job_entries(document) if entry not in self.entries]
        self.documents[story.job_id] = document

    def evidence(self, job_id: str) -> dict[str, Any]:
        """A job's document with its entries under the newest head."""
        document = self.documents[job_id]
        leaves = [entry.encode() for entry in self.entries]
        places = [self.entries.index(entry) for entry in job_entries(document)]
        entries = [
            {
                "index": place,
                "text": self.entries[place],
                "proof": [node.hex() for node in merkle.inclusion_proof(leaves, place)],
            }
            for place in places
        ]
        return document | {"log": {"head": self.head(), "entries": entries, "anchor": None}}

    def head(self, entries: list[str] | None = None) -> dict[str, Any]:
        """The signed head of these entries, all by default."""
        texts = self.entries if entries is None else entries
        return signed_head([text.encode() for text in texts], self.domain)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer as an `httpx.MockTransport` wants it."""
        status, body = self.answer(str(request.url), request.content)
        return httpx.Response(status, content=body)

    def answer(self, url: str, content: bytes) -> tuple[int, bytes]:
        """Answer one request with a status and a JSON text."""
        parts = urlsplit(url)
        path, said = parts.path, dict(parse_qsl(parts.query))
        if content:
            said |= json.loads(content)
        self.asked.append(path)
        name, _, subject = path.removeprefix("/api/").partition("/")
        for prefix in ("job/evidence/", "operator/standing/"):
            if path.startswith(f"/api/{prefix}"):
                name, said = prefix.rstrip("/"), {"subject": path.rpartition("/")[2]}
                break
        else:
            name = f"{name}/{subject}"
        found = self.instead[name](said) if name in self.instead else self._honest(name, said)
        if isinstance(found, int):
            return found, json.dumps({"code": found, "message": f"no {name} for you"}).encode()
        body = found if name == "job/evidence" else {"code": 200, "result": found}
        return 200, json.dumps(body).encode()

    def _honest(self, name: str, said: dict[str, str]) -> Any:
        leaves = [entry.encode() for entry in self.entries]
        if name == "log/head":
            domain = {"chain_id": self.domain.chain_id, "registry": self.domain.registry}
            return self.head() | {"dispatcher": DISPATCHER.address, "domain": domain}
        if name == "log/entries":
            start = int(said["start"])
            return {"start": start, "entries": self.entries[start : start + int(said["count"])]}
        if name == "log/consistency":
            first, second = int(said["first"]), int(said["second"])
            proof = merkle.consistency_proof(leaves[:second], first) if second <= len(leaves) else None
            return 404 if proof is None else {"proof": [node.hex() for node in proof]}
        if name in {"job/evidence", "job/detail", "job/result"}:
            return self._of_a_job(name, said.get("subject") or said["job_id"])
        if name == "operator/standing":
            return self.standings[said["subject"]]
        return {"operator/list": self.operators, "model/list": self.models}[name]

    def _of_a_job(self, name: str, job_id: str) -> Any:
        if job_id not in self.documents:
            return 404
        document = self.evidence(job_id)
        if name == "job/evidence":
            return document
        if name == "job/result":
            return rows_of(document)
        job, request = document["job"], document["job"]["request"]
        own = next(round_ for round_ in document["rounds"] if not round_["challenge"])
        verdict = own["verdict"]
        for round_ in document["rounds"]:  # as `aos_dispatcher.closing` has it
            decides = round_["verdict"] and round_["verdict"]["outcome"] != "inconclusive"
            if round_["subject"] in own["results"][:1] and decides:
                verdict = round_["verdict"]
        return {name: request[name] for name in ("from", "user", "tag", "job")} | {
            "id": job_id,
            "status": job["status"],
            "reason": job["reason"],
            "clock": job["clock"],
            "sequence": job["sequence"],
            "verdict": verdict,
        }


def standing(actor: Actor) -> dict[str, Any]:
    """Where an operator stands that nothing was found against."""
    return {
        "operator": actor.address,
        "number": actor.number,
        "standing": "good",
        "suspended_at": None,
        "appeal": "none",
        "frauds": [],
        "pools": [],
    }


@contextmanager
def serving(shown: LoggedDispatcher, port: int = 0) -> Iterator[str]:
    """Serve it on loopback, and give its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, body = shown.answer(self.path, self.rfile.read(length))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
