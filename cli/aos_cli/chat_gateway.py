"""A chat through the dispatcher's OpenAI gateway: server-sent events of `POST /v1/chat/completions`, and where the answer's evidence is."""

import json
from collections.abc import AsyncGenerator

import httpx

from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical

_DONE = "[DONE]"


class GatewayAnswer:
    """One answer; `job_id`, `evidence` and `operator` are known once it is whole."""

    def __init__(self) -> None:
        self.job_id = self.evidence = self.operator = ""

    async def texts(self, client: DispatcherClient, wanted: JsonObject) -> AsyncGenerator[str, None]:
        """Ask, and return the text as it comes. Raises `CliError` for an error that comes in its place, or for an answer that is cut short."""
        async with client.stream("/v1/chat/completions", json={**wanted, "stream": True}) as response:
            async for event in _events(response):
                error = event.get("error")
                if isinstance(error, dict):
                    raise CliError(f"the answer broke off: {error.get('message')}")
                self._note(event.get("aos"))
                for text in _texts(event):
                    yield text
        if not self.job_id:
            raise CliError("the answer broke off before its end")

    def _note(self, facts: object) -> None:
        if isinstance(facts, dict):
            self.job_id, self.evidence, self.operator = (
                str(facts.get(name) or "") for name in ("job_id", "evidence", "operator")
            )


async def _events(response: httpx.Response) -> AsyncGenerator[JsonObject, None]:
    """Return the events' JSON objects, to the last."""
    try:
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue  # an empty line, or a comment that keeps the connection alive
            data = line.removeprefix("data:").strip()
            if data == _DONE:
                return
            yield _object(data)
    except httpx.TransportError as error:
        raise CliError("the connection broke off before the answer was complete") from error


def _object(data: str) -> JsonObject:
    try:
        event = parse(data)
    except NotCanonical as error:
        raise BadAnswer(f"an event of the stream is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise BadAnswer(f"an event of the stream is no JSON object: {json.dumps(event)[:80]}")
    return event


def _texts(event: JsonObject) -> list[str]:
    """Return the text of the first choice in an event, if it brings any."""
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return []
    delta = choices[0].get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    return [text] if isinstance(text, str) and text else []
