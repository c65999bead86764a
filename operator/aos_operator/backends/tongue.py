"""What every HTTP API of model servers is asked here, and how it answers: one protocol, for which each API has a module."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aos_operator.backends.chunks import Chunk, Finish
from aos_operator.errors import WorkerRefused
from aos_protocol.job import ChatMessage, Params


@dataclass(frozen=True)
class Asked:
    """One job as a server is asked to run it, with the model's name there.

    Either `messages`, or a `prompt`, that nothing is put around; a `suffix` beside it is for servers that fill in by themselves. `seed` is
    positive and below 2^31. `logprobs` is how many alternatives to show of each token, at least 1, or None. `whole`: all at once.
    """

    model: str
    params: Params
    seed: int
    stops: Sequence[str] = ()
    prompt: str | None = None
    suffix: str | None = None
    messages: Sequence[ChatMessage] | None = None
    logprobs: int | None = None
    whole: bool = False

    def turns(self) -> list[dict[str, Any]]:
        """Return the messages as every API takes them."""
        return [turn.model_dump() for turn in self.messages or ()]

    def stopped(self) -> Finish:
        """Return why an answer ended of which its server says "stop": by a stop sequence only if there is one that it could be."""
        return "stop" if self.stops else "eos"


class Tongue(Protocol):
    """One server, in the API that it speaks. Raises what `Upstream` raises, and `WorkerRefused` for answers that it cannot be."""

    async def names(self) -> Sequence[str]:
        """Return the names of the models that are served."""
        ...

    async def fills_in(self, model: str) -> bool:
        """Whether the server knows by itself how this model fills in what is between a prompt and a suffix."""
        ...

    def run(self, asked: Asked) -> AsyncGenerator[Chunk, None]:
        """Yield an answer as it comes; the last chunk says why it ended. Closing it stops the server's work."""
        ...


def members(said: object, what: str) -> dict[str, Any]:
    """Return what should be a JSON object. Raises `WorkerRefused`."""
    if not isinstance(said, dict):
        raise WorkerRefused(f"{what} is no JSON object: is that the kind of server that the settings say?")
    return said


def items(said: object, what: str) -> list[Any]:
    """Return what should be a JSON array. Raises `WorkerRefused`."""
    if not isinstance(said, list):
        raise WorkerRefused(f"{what} is no JSON array: is that the kind of server that the settings say?")
    return said


def text_of(said: object, what: str) -> str:
    """Return what should be a text; none where there is null. Raises `WorkerRefused`."""
    if said is None:
        return ""
    if not isinstance(said, str):
        raise WorkerRefused(f"{what} is no text: is that the kind of server that the settings say?")
    return said
