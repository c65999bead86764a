"""Whether a registered model is there: it is asked for its models, or at least connected to."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx

from aos_operator.boundary import keep_cancellation
from aos_operator.registration_place import Place

_PATIENCE_S: Final = 3.0
_MOST_BYTES: Final = 1 << 20


class Probe(Protocol):
    """Looks after registered models."""

    async def problem(self, place: Place, model: str) -> str:
        """Say why the model cannot be used there; empty when it can."""
        ...


@dataclass(frozen=True)
class HttpProbe:
    """`Probe` over HTTP. `client` follows no redirects and uses no proxy (`probe_client`)."""

    client: httpx.AsyncClient

    async def problem(self, place: Place, model: str) -> str:
        """See `Probe.problem`.

        A server that lists its models must list this one. One that lists none, wants a key, or is too busy to answer is there.
        """
        try:
            async with self.client.stream("GET", place.models) as response:
                said = await _text(response)
            keep_cancellation()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return f"nothing answers at {place.base} ({error})"
        except httpx.ReadTimeout:
            return ""
        except httpx.TransportError as error:
            return f"what answers at {place.base} speaks no HTTP ({error})"
        if response.status_code >= 500:
            return f"{place.models} answers {response.status_code}"
        names = _names(said) if response.status_code == 200 else []
        if names and model not in names:
            return f"{place.base} serves {', '.join(names[:8])}, and not {model}"
        return ""


def probe_client() -> httpx.AsyncClient:
    """Return what an `HttpProbe` asks with; it is closed by `aclose`."""
    return httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False, follow_redirects=False)


async def _text(response: httpx.Response) -> bytes:
    """The body, if it is not too long."""
    said = b""
    async for part in response.aiter_bytes():
        said += part
        if len(said) > _MOST_BYTES:
            return b""
    return said


def _names(text: bytes) -> list[str]:
    """The models in a list of OpenAI's shape (`id`) or DBC's (`model`)."""
    try:
        body: Any = httpx.Response(200, content=text).json()
    except ValueError:
        return []
    models = body.get("data") if isinstance(body, dict) else None
    if not isinstance(models, list):
        return []
    names = [model.get("id", model.get("model")) for model in models if isinstance(model, dict)]
    return [name for name in names if isinstance(name, str)]
