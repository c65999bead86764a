"""Everything that a network keeps, writes down or says, in which a test looks for what nobody may have seen."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
from redis.asyncio import Redis


def forms(text: str) -> dict[str, bytes]:
    """A text as it may stand somewhere: as it is, escaped for JSON once or twice, in hex, and in base64 at any place of a longer one."""
    plain, ascii_, raw = text.encode(), json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    found = {
        "plain": plain,
        "JSON": raw.encode(),
        "JSON in JSON": json.dumps(raw, ensure_ascii=False)[1:-1].encode(),
        "JSON in a row": _in_a_row(raw),
        "JSON in ASCII in a row": _in_a_row(ascii_),
        "JSON in ASCII": ascii_.encode(),
        "JSON in ASCII in JSON": json.dumps(ascii_)[1:-1].encode(),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
    }
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + plain)
        # The characters at both ends depend on what stands before and after.
        found[f"base64, shifted by {shift}"] = whole[4 if shift else 0 : len(whole) // 4 * 4 - 4]
    return found


def _in_a_row(text: str) -> bytes:
    """As PostgreSQL writes it in a row's text (8.16.6): quotes and backslashes are doubled."""
    return text.replace("\\", "\\\\").replace('"', '""').encode()


def digests(text: str) -> dict[str, bytes]:
    """A text's SHA-512 in hex and base64: whoever guesses the text could tell by it."""
    made = hashlib.sha512(text.encode()).digest()
    return {"SHA-512": made.hex().encode(), "SHA-512 in base64": base64.b64encode(made)}


def found(traces: dict[str, bytes], secrets: dict[str, bytes]) -> dict[str, set[str]]:
    """Where something stands: by trace, the names of what was found in it."""
    hits = {
        place: {name for name, secret in secrets.items() if secret in said} for place, said in traces.items()
    }
    return {place: names for place, names in hits.items() if names}


async def tables(url: str) -> bytes:
    """Every row of every table of a database, as text."""
    connection = await asyncpg.connect(url)
    try:
        names = await connection.fetch(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) AS name FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        assert len(names) > 1
        said = []
        for (name,) in names:
            rows = await connection.fetch(f"SELECT t::text FROM {name} t")  # the names are the database's own
            said += [name, *(row[0] for row in rows)]
    finally:
        await connection.close()
    return "\n".join(said).encode()


async def values(client: Redis) -> bytes:
    """Every key of a Redis with its value, as DUMP gives it, and the entries of its streams."""
    said: list[bytes] = []
    for key in await client.keys("*"):
        said += [key, await client.dump(key) or b""]
        if await client.type(key) == b"stream":
            said.append(repr(await client.xrange(key)).encode())
    return b"\n".join(said)


@asynccontextmanager
async def commands(client: Redis) -> AsyncIterator[list[bytes]]:
    """Every command that a Redis is given meanwhile, as MONITOR tells it: what was in it for a moment, too."""
    said: list[bytes] = []

    async def listen() -> None:
        async with client.monitor() as monitor:
            watching.set()
            async for command in monitor.listen():  # it has no end
                said.append(command["command"].encode())  # noqa: PERF401

    watching = asyncio.Event()
    listening = asyncio.create_task(listen())
    await watching.wait()
    try:
        yield said
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


def below(folder: Path) -> list[Path]:
    """All files under a folder; what PostgreSQL and Valkey put away meanwhile is left out."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)


def files(paths: Iterable[Path]) -> bytes:
    """What these files hold that are still there."""
    said = []
    for path in paths:
        with suppress(FileNotFoundError):
            said.append(path.read_bytes())
    return b"\n".join(said)
