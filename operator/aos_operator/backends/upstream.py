"""HTTP to a model server that is not ours: its answers bounded in size and time, its errors told in its own words, its key to nobody."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx
from pydantic import SecretStr

from aos_operator.backends.lines import MAX_LINE_BYTES, Lines
from aos_operator.boundary import keep_cancellation
from aos_operator.errors import WorkerBusy, WorkerRefused, WorkerUnavailable
from aos_protocol.canonical import JsonValue, parse
from aos_protocol.errors import NotCanonical
from aos_service.http_client import PooledTransport

QUICK_S: Final = 10.0
"""How long a question that needs no model may take, in seconds."""

MAX_BODY_BYTES: Final = 16 << 20
"""More than this is read of no answer."""

_KEEPALIVE_S: Final = 2.0  # servers end idle connections after 5 s
_MAX_WORDS: Final = 500
_NOTHING: Final = frozenset({404, 405, 501})
_BUSY: Final = frozenset({429, 503})
_AWAY: Final = frozenset({408, 425, 502, 504})


class BrokenOff(WorkerUnavailable):
    """The server ended in the middle of its answer."""


class Closed(WorkerUnavailable):
    """The server had closed the connection before it was asked, as servers do after an error of their own."""


class NotThere(WorkerRefused):
    """The server has nothing at this path."""


class Upstream:
    """A model server at one base URL; `timeout` is for a whole answer, in seconds. `key` goes to it as a Bearer token, and nowhere else.

    Nothing of the environment's proxies is used, and no redirect is followed: prompts go where the settings say. Every method raises
    `WorkerUnavailable` (`WorkerBusy`) when trying again may help, and else `WorkerRefused`, with the server's own words.
    """

    def __init__(self, base: str, key: SecretStr | None, timeout: float) -> None:
        self.base = base
        self._key = key
        self._timeout = timeout
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=QUICK_S),
            transport=PooledTransport(keepalive=_KEEPALIVE_S),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, path: str) -> JsonValue:
        """Return the JSON of a GET, within `QUICK_S`; asked again at once if the connection had been closed meanwhile."""
        try:
            return await self._get(path)
        except Closed:
            return await self._get(path)

    async def _get(self, path: str) -> JsonValue:
        async with self._asked("GET", path, None, QUICK_S) as response:
            return self._json(await _body(response))

    async def post(self, path: str, body: Mapping[str, Any], timeout: float | None = None) -> JsonValue:  # noqa: ASYNC109 (it becomes one)
        """Return the JSON that answers a POST, within `timeout` or the time for an answer."""
        async with self._asked("POST", path, body, timeout or self._timeout) as response:
            return self._json(await _body(response))

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the lines that answer a POST as they come, without their ends. Closing it ends the request, and the server's work."""
        async with self._asked("POST", path, body, self._timeout) as response:
            lines, size = Lines(), 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise WorkerRefused(
                        f"{self.base} sent more than {MAX_BODY_BYTES} bytes: that is no answer"
                    )
                for line in lines.feed(part):
                    yield line
            for line in lines.end():
                yield line

    def read(self, text: str) -> JsonValue:
        """Return the JSON value of a text that the server sent."""
        return self._json(text)

    def said(self, words: object) -> str:
        """Return what the server said of an error, in one line, bounded, and without its key if it repeats that."""
        text = " ".join(str(words).split())
        if self._key is not None and self._key.get_secret_value():
            text = text.replace(self._key.get_secret_value(), "***")
        return text.replace("\0", "")[:_MAX_WORDS]

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float,  # noqa: ASYNC109 (it becomes one)
    ) -> AsyncIterator[httpx.Response]:
        broken: type[WorkerUnavailable] = Closed
        with self._translated(lambda: broken):
            try:
                async with asyncio.timeout(timeout):
                    async with self._client.stream(method, self.base + path, json=body) as response:
                        await self._check(response)
                        broken = BrokenOff
                        yield response
            except TimeoutError as error:
                raise WorkerUnavailable(
                    f"{self.base} did not answer {path} within {timeout:g} s: find out what keeps it, or raise net.worker_timeout"
                ) from error
            keep_cancellation()

    @contextmanager
    def _translated(self, broken: Callable[[], type[WorkerUnavailable]]) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise WorkerUnavailable(
                f"{self.base} cannot be reached ({str(error) or type(error).__name__}): start the server there, or correct its URL"
            ) from error
        except httpx.TimeoutException as error:
            raise WorkerUnavailable(f"{self.base} gave no answer in time ({type(error).__name__})") from error
        except httpx.TransportError as error:
            raise broken()(f"{self.base} broke off ({str(error) or type(error).__name__})") from error
        except (httpx.DecodingError, httpx.InvalidURL) as error:
            raise WorkerRefused(f"the answer of {self.base} cannot be read ({error})") from error

    async def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        if response.is_redirect:
            raise WorkerRefused(
                f"{self.base} redirects (HTTP {status}), and prompts are not sent elsewhere: set the URL to where the server is"
            )
        words = f"{self.said(_problem(await _body(response)))} (HTTP {status}, {response.url.path})"
        if status in _BUSY:
            raise WorkerBusy(f"{self.base} cannot do it now: {words}")
        if status in _AWAY:
            raise WorkerUnavailable(f"{self.base} cannot be asked: {words}")
        if status in {401, 403}:
            wrong = "wants an api_key" if self._key is None else "does not take the api_key"
            raise WorkerRefused(f"{self.base} {wrong}: {words}")
        refused = NotThere if status in _NOTHING else WorkerRefused
        raise refused(f"{self.base} refused: {words}")

    def _json(self, text: str | bytes) -> JsonValue:
        try:
            return parse(text)
        except NotCanonical as error:
            raise WorkerRefused(
                f"{self.base} sent what cannot be read: {error}. Is that the kind of server that the settings say?"
            ) from error


async def _body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise WorkerRefused(
                f"{response.url.path} sent more than {MAX_BODY_BYTES} bytes: that is no answer"
            )
    return bytes(body)


def _problem(body: bytes) -> object:
    """The message in an error's body, in whichever of the forms that servers have; the body itself if it has none of them."""
    try:
        said = parse(body)
    except NotCanonical:
        return body[:MAX_LINE_BYTES].decode(errors="replace") or "no reason given"
    return error_words(said) or "no reason given"


def error_words(said: object) -> object:
    """Return the words of an error as servers put them: `{"error": {"message"}}`, `{"error": ...}`, `{"message"}`, `{"detail"}`."""
    match said:
        case {"error": {"message": words}} | {"error": words} | {"message": words} | {"detail": words}:
            return words
        case _:
            return said
