"""A server of text models that is not ours as a backend: each job in the server's own API, each answer with a record of what it shows."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import structlog

from aos_operator.backends.chunks import Chunk, Gathered
from aos_operator.backends.dialects import Dialect, Source
from aos_operator.backends.llamacpp import LlamaCpp
from aos_operator.backends.ollama import Ollama
from aos_operator.backends.openai import OpenAi
from aos_operator.backends.protocol import Execution, Hear, Piece
from aos_operator.backends.tongue import Asked, Tongue
from aos_operator.backends.upstream import BrokenOff, NotThere, Upstream
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_operator.subjects import Subject
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import Ability, EvidenceLevel, parse_message
from aos_protocol.fim import choose, render
from aos_protocol.job import JobSpec
from aos_protocol.messages import ServedModel, TokenLogprob
from aos_protocol.record import Record, named_model_digest
from aos_protocol.sampling import sampling_seed
from aos_service.tracing import span

_TONGUES: Final[dict[str, Callable[[Upstream, Dialect], Tongue]]] = {
    "openai": OpenAi,
    "ollama": Ollama,
    "llamacpp": LlamaCpp,
}
_MOST_MODELS: Final = 256
_MOST_SHOWN: Final = 20
_SEEDS: Final = 2**31 - 1

_log = structlog.get_logger(__name__)


class TextBackend:
    """`Backend` of one server of text models. Nothing that it answers can be scored but by who has the model's file and sees token ids."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._upstream = Upstream(source.base, source.key, source.timeout)
        self._tongue = _TONGUES[source.dialect.tongue](self._upstream, source.dialect)
        self._served: dict[str, str] = dict(source.models)
        self._offers: list[ServedModel] = []
        self._missing: set[str] = set()
        self._running = 0
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}

    async def models(self) -> Sequence[ServedModel]:
        """See `Backend.models`. A server that is at work is there: it is not asked whether it has what settings name.

        So nothing comes between an answer and a server that breaks off when it is asked something else (`llama_cpp.server`).
        """
        if self._running and self._source.models and len(self._offers) == len(self._source.models):
            return self._offers
        try:
            served = await self._names()
            self._served = dict(sorted(served.items())[:_MOST_MODELS])
            offers = [await self._offer(name, its) for name, its in self._served.items()]
        except WorkerRefused as error:
            advice = (
                " (`aos doctor --backend` tells which kind that is)" if isinstance(error, NotThere) else ""
            )
            raise WorkerUnavailable(
                f"{self._source.base} does not list its models: {error}{advice}"
            ) from error
        self._offers = [offer for offer in offers if offer is not None]
        return self._offers

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        del prover
        if execution is not None or job.image is not None or (job.prompt is None and job.messages is None):
            raise WorkerRefused(f"a {self._source.kind} server runs prompts and messages of opml jobs only")
        if job.model not in self._served:
            await self.models()
        asked, offered = await self._asked(job, seed, hear)
        with span("worker", kind="client", asked="generate"):
            gathered = await self._gather(asked, job, hear)
        return self._answer(job, gathered, asked, offered)

    async def score(self, job: JobSpec, subject: Subject) -> dict[str, Any]:
        """See `Backend.score`: always refused."""
        del job, subject
        raise WorkerRefused(
            f"a {self._source.kind} server cannot score answers: that takes an AOS worker (docs/worker.md)"
        )

    async def attestation(self, nonce: str) -> dict[str, Any]:
        """See `Backend.attestation`: always refused."""
        del nonce
        raise WorkerRefused(f"a {self._source.kind} server is no enclave")

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    async def _gather(self, asked: Asked, job: JobSpec, hear: Hear | None) -> Gathered:
        gathered = Gathered()
        self._running += 1
        try:
            async with aclosing(self._tongue.run(asked)) as chunks:
                async for chunk in chunks:
                    gathered.add(chunk)
                    _tell(hear, chunk, job.logprobs)
        except BrokenOff as error:
            raise await self._at_fault(error) from error
        finally:
            self._running -= 1
        return gathered

    async def _names(self) -> dict[str, str]:
        """What the server has of what is wanted, by names on the network. One that keeps no list is believed to have what settings name."""
        wanted = self._source.models
        try:
            there = list(await self._tongue.names())
        except NotThere:
            if not wanted:
                raise
            return dict(wanted)
        if not wanted:
            served = {_public(name): name for name in there}
            self._tell_missing(set(self._source.files) - set(served), there)
            return served
        known = {_public(name): name for name in there} | {name: name for name in there}
        self._tell_missing({its for its in wanted.values() if its not in known}, there)
        return {name: known[its] for name, its in wanted.items() if its in known}

    def _tell_missing(self, missing: set[str], there: Sequence[str]) -> None:
        if missing - self._missing:
            _log.warning(
                "the server does not have what settings name",
                url=self._source.base,
                models=sorted(missing),
                it_has=[_public(name) for name in there[:_MOST_SHOWN]],
            )
        self._missing = missing

    async def _offer(self, name: str, its: str) -> ServedModel | None:
        """What is announced of a model; None of one whose name cannot be announced."""
        digest = await self._digest(name)
        able: list[Ability] = ["chat"]
        if self._source.template or choose(its) or await self._tongue.fills_in(its):
            able.append("fim")
        level = self._level(name)
        if level != "text":
            able.append("logprobs")
        try:
            return parse_message(
                ServedModel, {"name": name, "sha256": digest, "evidence": level, "able": able}
            )
        except InvalidMessage:
            return None

    def _level(self, name: str) -> EvidenceLevel:
        """What an answer of this model shows at least: all token ids only where others can have its file."""
        if name in self._source.files:
            known = self._source.dialect.tongue == "llamacpp"
            return self._source.evidence or ("token_ids" if known else self._source.shows)
        return "logprobs" if self._source.shows == "token_ids" else self._source.shows

    async def _digest(self, name: str) -> str:
        path = self._source.files.get(name)
        if path is None:
            return named_model_digest(name)
        known, digest = self._digests.get(name, (None, ""))
        if (now := await asyncio.to_thread(_identity, path)) != known:
            digest = await asyncio.to_thread(_file_digest, path)
            self._digests[name] = now, digest
        return digest

    async def _asked(self, job: JobSpec, seed: str, hear: Hear | None) -> tuple[Asked, EvidenceLevel]:
        its = self._served.get(job.model)
        if its is None:
            raise WorkerRefused(f"{self._source.base} does not serve {job.model} now")
        offered = self._level(job.model)
        if job.logprobs is not None and offered == "text":
            raise WorkerRefused(f"{self._source.kind} shows no logprobs of {job.model}")
        prompt, suffix, stops = job.prompt, job.suffix, list(job.params.stop)
        if prompt is not None and suffix is not None:
            template = self._source.template or choose(its)
            if template is not None:
                prompt, suffix = render(template, prompt, suffix), None
                stops += template.stops
            elif not await self._tongue.fills_in(its):
                raise WorkerRefused(f"no template for filling in is known for {job.model}: set fim")
        wanted = max(1, job.logprobs or 0) if job.logprobs is not None or offered == "logprobs" else None
        return Asked(
            model=its,
            params=job.params,
            seed=integer_seed(seed),
            stops=stops,
            prompt=prompt,
            suffix=suffix,
            messages=job.messages,
            logprobs=wanted,
            whole=offered == "token_ids" or hear is None,
        ), offered

    def _answer(
        self, job: JobSpec, gathered: Gathered, asked: Asked, offered: EvidenceLevel
    ) -> dict[str, Any]:
        if gathered.ended is None:
            raise WorkerRefused(
                f"{self._source.base} does not say why its answer ended. llama_cpp.server breaks off so when it is asked something else "
                "meanwhile: start it with --interrupt_requests False"
            )
        level = gathered.level
        if level == "logprobs" and asked.logprobs is None:  # nothing came, so nothing was missing
            level = "text"
        if job.logprobs is not None and gathered.logprobs is None:
            raise WorkerRefused(
                f"{self._source.kind} showed no logprobs, though its settings say {offered}: correct evidence"
            )
        record = Record(
            level=level,
            backend=self._source.kind,
            engine=gathered.engine.replace("\0", "")[:1024],
            finish_reason=gathered.ended,
            prompt_tokens=gathered.prompt_tokens,
            completion_tokens=gathered.counted,
            output_tokens=gathered.tokens if level == "token_ids" else None,
        )
        answer: dict[str, Any] = {"text": "".join(gathered.texts), "record": record.to_json()}
        if job.logprobs is not None or level == "logprobs":
            answer["logprobs"] = [
                token.to_json() for token in _trimmed(gathered.logprobs or [], job.logprobs)
            ]
        return answer

    async def _at_fault(self, broken: BrokenOff) -> Exception:
        """Whose fault it is when an answer breaks off: a server's that is gone, or if it is still there, the job's, or its own for good."""
        try:
            await self._tongue.names()
        except (WorkerUnavailable, WorkerRefused):
            return broken
        return WorkerRefused(f"{broken}, and answers again: its log says what it did not like of this job")


def integer_seed(seed: str) -> int:
    """Return the seed for a server's own sampler, from 1 to 2^31 - 1, that a job's seed (64 hex digits) stands for.

    It is derived from the sampling seed, so that nobody chooses it. What the server draws with it, nobody can check.
    """
    return 1 + int.from_bytes(sampling_seed(bytes.fromhex(seed))[:8]) % _SEEDS


def _tell(hear: Hear | None, chunk: Chunk, wanted: int | None) -> None:
    if hear is not None and chunk.text:
        shown = () if wanted is None else tuple(_trimmed(chunk.logprobs or (), wanted))
        hear(Piece(chunk.text, shown))


def _trimmed(tokens: Sequence[TokenLogprob], wanted: int | None) -> list[TokenLogprob]:
    return [token.model_copy(update={"top": token.top[: wanted or 0]}) for token in tokens]


def _public(name: str) -> str:
    """The name to announce for a server's: where that is a file's path, which says what this machine looks like, only its last part."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced: inode, size and time of modification."""
    with _readable(path):
        found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _file_digest(path: Path) -> str:
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkerUnavailable(f"{path} cannot be read ({error.strerror}): correct files") from error
