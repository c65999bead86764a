"""JSON over HTTP, with our errors: what dispatchers and workers answer is read strictly, and trusted in nothing."""

from typing import Any, TypeAlias

import httpx

from aos_auditor.errors import BadAnswer, Refused, Unreachable
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical

JsonObject: TypeAlias = dict[str, Any]


async def ask(
    client: httpx.AsyncClient, method: str, path: str, *, name: str, body: JsonObject | None = None
) -> JsonObject:
    """Send a request and return the JSON object that is answered; `name` is what messages call the server.

    Raises `Unreachable`, `Refused` for an HTTP error, `BadAnswer` for what is no JSON object.
    """
    try:
        response = await client.request(method, path, json=body)
    except httpx.TimeoutException as error:
        raise Unreachable(f"{name} did not answer in time") from error
    except (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL) as error:
        raise Unreachable(f"nothing answers at {name} ({str(error) or type(error).__name__})") from error
    if response.is_error:
        raise Refused(response.status_code, f"{name}: {_message(response)}")
    return _object(name, response)


def _object(name: str, response: httpx.Response) -> JsonObject:
    try:
        answer = parse(response.content)
    except NotCanonical as error:
        raise BadAnswer(f"{name} gave an answer that cannot be read: {error}") from error
    if not isinstance(answer, dict):
        raise BadAnswer(f"{name} gave an answer that is no JSON object")
    return answer


def _message(response: httpx.Response) -> str:
    try:
        answer = parse(response.content)
    except NotCanonical:
        answer = None
    said = answer.get("message") if isinstance(answer, dict) else None
    return f"{said} ({response.status_code})" if isinstance(said, str) else f"HTTP {response.status_code}"
