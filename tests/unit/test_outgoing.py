"""Nothing that a job, a frame or a request says is ever connected to: all addresses come from settings (no server-side request forgery).

With one exception, which tests of its own hold to the public internet: the URL of an image that is to be edited.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aos_dispatcher.disputes_api import AppealBody, ChallengeBody, VerifyQuery
from aos_dispatcher.openapi import JobQuery, SubmitBody
from aos_dispatcher.sessions_api import SessionBody
from aos_protocol import messages
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Message, parse_message
from aos_protocol.job import SubmitRequest

ROOT = Path(__file__).parents[2]
ROOMS = ("protocol", "service", "chain", "inference", "tee_worker", "operator", "dispatcher")

FROM_OUTSIDE: list[type[BaseModel]] = [
    SubmitBody,
    SessionBody,
    JobQuery,
    VerifyQuery,
    ChallengeBody,
    AppealBody,
] + [kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)]
"""Every body of a request, and every message on /ws."""

_LIKE_AN_ADDRESS = re.compile(
    r"ur[il]|href|link|host|endpoint|webhook|callback|domain|server|path|file|image"
)

NEVER_CONNECTED_TO = {
    "image": "how many, how large, and the digest of one that the dispatcher holds",
    "url": "where an operator says that clients reach it: passed on to them, and to nobody else",
}
"""Fields that only sound like something to fetch."""

CONNECTS = {
    "dispatcher/aos_dispatcher/mesh_bus.py": "cluster.redis_url",
    "dispatcher/aos_dispatcher/redis_client.py": "cluster.redis_url",
    "dispatcher/aos_dispatcher/fetching.py": "the one exception: an image's URL in /v1/images/edits, on the public internet only (gateway.fetch_*)",
    "operator/aos_operator/link.py": "net.dispatcher_url",
    "operator/aos_operator/backends/images.py": "the errors and answers of httpx only; backends[].url, by upstream.py",
    "operator/aos_operator/backends/worker.py": "net.worker_url",
    "operator/aos_operator/backends/upstream.py": "backends[].url, provider.yaml's apiHostname",
    "operator/aos_operator/queue.py": "queue.queue_url",
    "operator/aos_operator/registration_health.py": "the models that registered, all on this very machine (registration_place)",
    "operator/aos_operator/registration_place.py": "nothing: whether an address is this machine's own",
    "operator/aos_operator/registration_server.py": "the socket that it listens on",
    "operator/aos_operator/postgres_errors.py": "the errors of asyncpg only",
    "service/aos_service/transport.py": "net.worker_url",
    "service/aos_service/http_client.py": "what its users name: net.worker_url, backends",
    "service/aos_service/tracing_otlp.py": "telemetry.otlp_endpoint",
    "service/aos_service/postgres.py": "database.url, db.pg_db_url",
    "service/aos_service/database.py": "database.url, db.pg_db_url",
    "chain/aos_chain/endpoint.py": "chain.rpc_url, chain.chain_rpc_url",
    "inference/aos_inference/main.py": "the socket that it listens on",
    "inference/aos_inference/server.py": "the socket that it listens on",
    "tee_worker/aos_tee_worker/enclave.py": "the socket that it listens on",
    "tee_worker/aos_tee_worker/sockets.py": "the socket that it listens on",
}
"""The modules of servers that can open a connection, and the setting that says where to."""

_CLIENTS = re.compile(
    r"socket|ssl|http\.client|urllib\.request|ftplib|smtplib|httpx|httpcore|aiohttp|requests|urllib3|asyncpg|psycopg|redis(\.asyncio)?"
    r"|websockets(\.asyncio\.client|\.sync\.client|\.client)?|websocket|grpc|boto3|paramiko|opentelemetry\.exporter\..*"
)


def fields(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every property in a JSON schema, however deep, by name."""
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            yield name, value
        for value in schema.values():
            yield from fields(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from fields(value)


@pytest.mark.parametrize("kind", FROM_OUTSIDE, ids=lambda kind: kind.__name__)
def test_no_message_has_a_field_for_an_address(kind: type[BaseModel]) -> None:
    for name, schema in fields(kind.model_json_schema()):
        assert name in NEVER_CONNECTED_TO or not _LIKE_AN_ADDRESS.search(name), name
        assert schema.get("format") not in {"uri", "uri-reference", "iri", "hostname", "ipv4", "ipv6"}, name


def test_there_are_fields_to_look_at() -> None:
    named = {name for kind in FROM_OUTSIDE for name, _ in fields(kind.model_json_schema())}
    assert {"prompt", "messages", "content", "verify", "nonce", "subject", "boxes", "seat"} <= named


@pytest.mark.parametrize("where", ["", "job", "job.params", "job.messages"])
def test_a_job_with_an_address_beside_its_fields_is_refused(where: str) -> None:
    """And so is one whose chat message is not a text but a picture's address, as other APIs take it."""
    picture = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}]
    job: dict[str, Any] = {"tag": "opml", "prompt": "What is AI?", "model": "m", "params": {"max_tokens": 1}}
    body: dict[str, Any] = {"from": "shop", "tag": "", "user": "ann", "job": job}
    parse_message(SubmitRequest, body)
    if where == "job.messages":
        del job["prompt"]
        job["messages"] = [{"role": "user", "content": picture}]
    else:
        place = {"": body, "job": job, "job.params": job["params"]}[where]
        place["callback_url"] = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(InvalidMessage):
        parse_message(SubmitRequest, body)


def _imported(tree: ast.Module) -> Iterator[str]:
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_only_these_modules_of_servers_can_connect_anywhere() -> None:
    """Who adds one has to say where its addresses come from, and that is never a message."""
    found, opened = set(), set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            name = str(path.relative_to(ROOT))
            if any(_CLIENTS.fullmatch(module) for module in _imported(tree)):
                found.add(name)
            calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            if calls & {"open_connection", "create_connection", "open_unix_connection", "urlopen"}:
                opened.add(name)
    assert {name for name in found if name not in CONNECTS} <= {
        "service/aos_service/tls.py",
        "operator/aos_operator/settings.py",
        "dispatcher/aos_dispatcher/tls.py",
    }
    assert opened == set()
    assert found >= {
        "operator/aos_operator/link.py",
        "service/aos_service/transport.py",
        "chain/aos_chain/endpoint.py",
    }
