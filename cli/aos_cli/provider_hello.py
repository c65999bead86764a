"""The test call of a starting provider: the model server streams an answer, by the very path that jobs will take."""

import asyncio
import secrets
from typing import Any, Final

import httpx

from aos_cli.errors import CliError
from aos_cli.provider_settings import ProviderSettings
from aos_cli.provider_steps import Steps
from aos_operator.backends.protocol import Backend, Piece, Queued
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_protocol.job import ChatMessage, JobSpec, Params

_PATIENCE_S: Final = 300.0
"""A server may have to load the model first, from a slow disk."""

_LIST_PATIENCE_S: Final = 5.0
_TOKENS: Final = 16
_MOST_BYTES: Final = 1 << 20
_MOST_NAMES: Final = 20


class ModelServerFailed(CliError):
    """The model server does not do what the network would ask of it."""


async def say_hello(backend: Backend, settings: ProviderSettings, prover: str, steps: Steps) -> None:
    """Have the backend stream an answer. Raises `ModelServerFailed`, which says what to do."""
    steps.say("saying hello to the model server")
    job = JobSpec(
        tag="opml",
        messages=[ChatMessage(role="user", content="Hello, this is a test message!")],
        model=settings.model,
        params=Params(temperature=0.0, max_tokens=_TOKENS),
        stream=True,
    )
    heard: list[str] = []

    def hear(piece: Piece | Queued) -> None:
        if isinstance(piece, Piece):
            if not heard:
                steps.say("checking the stream")
            heard.append(piece.text)

    steps.say("sending a test request", url=f"{settings.api_url}/chat/completions")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await backend.generate(job, secrets.token_hex(32), prover, hear=hear)
            listed = await backend.models()
    except TimeoutError:
        raise ModelServerFailed(
            f"{settings.origin} gave no answer within {_PATIENCE_S:g} s: see what it is doing"
        ) from None
    except WorkerUnavailable as error:
        raise ModelServerFailed(
            f"{error}: start your model server (of Ollama: ollama serve), or correct apiProtocol, apiHostname and apiPort; they say {settings.origin}"
        ) from error
    except WorkerRefused as error:
        raise ModelServerFailed(await _refused(settings, str(error))) from error
    if not listed:
        names = ", ".join((await _names(settings))[:_MOST_NAMES]) or "none"
        raise ModelServerFailed(
            f"{settings.origin} answers as {settings.model}, and lists {names}: write modelName as it is in the list"
        )
    if not heard:
        steps.say("checking the stream")
        steps.warn(
            f"{settings.model} said nothing in the {_TOKENS} tokens of the test call. A model that thinks first does so: what it thinks "
            "is no part of its answer, and jobs need a max_tokens for both"
        )
    steps.say("the test call succeeded")


async def _refused(settings: ProviderSettings, said: str) -> str:
    names = await _names(settings)
    if names and settings.model not in names:
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        return f"{settings.origin} does not have modelName {settings.model}: it has {shown} ({said})"
    return (
        f"{settings.origin} refuses the test call: {said}; correct modelName, apiKey or apiBasePath "
        f"(`aos doctor --backend {settings.origin}` looks what runs there)"
    )


async def _names(settings: ProviderSettings) -> list[str]:
    """The models that the server lists; none if it does not say."""
    key = settings.api_key
    headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=_LIST_PATIENCE_S, headers=headers) as client,
            client.stream("GET", f"{settings.api_url}/models") as response,
        ):
            text = b""
            async for part in response.aiter_bytes():
                text += part
                if len(text) > _MOST_BYTES:
                    return []
            return _listed(httpx.Response(200, content=text).json())
    except (httpx.HTTPError, ValueError):
        return []


def _listed(body: Any) -> list[str]:  # noqa: ANN401 - whatever the server says
    match body:
        case {"data": [*models]}:
            return [model["id"] for model in models if isinstance(model, dict) and "id" in model]
        case _:
            return []
