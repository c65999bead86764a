"""Prompts that go to the drawn operator alone, and answers that only their client can read: what is sealed, committed to and signed.

    1. client      chooses a salt and a key for this job; the job binds the key, and a commitment to the prompt
    2. dispatcher  draws an executor and signs a `Session`; the operator accepts it with a signature of its own
    3. client      `check_session`, `check_acceptance`; then `seal_prompt`: salt and prompt, to the session's key
    4. operator    `open_prompt`, runs it, and seals the answer piece by piece to the client's key: `AnswerSealer`
    5. client      `AnswerOpener`, piece by piece; the last one brings what opens the operator's signed `Commitments`

All boxes are HPKE in base mode (RFC 9180, the suite of `aos_protocol.sealing`), which does not say who sealed them. A piece's `info` has the
salt of the prompt, which HPKE works into the key: so only who opened the prompt makes pieces that open. It has its index, too, and whether it is
the last: one that was changed, moved, repeated or left out does not open, and a stream without its last one is not whole.
"""

import base64
import hashlib
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from aos_protocol.canonical import JsonValue, canonical, digest, parse
from aos_protocol.errors import InvalidMessage, InvalidSignature, InvalidTranscript, NotCanonical, NotSealed
from aos_protocol.fields import Hex32, Message, Text, parse_message
from aos_protocol.frames import open_frame
from aos_protocol.identity import Signer
from aos_protocol.job import ChatMessage, Direct, JobSpec
from aos_protocol.messages import MAX_CHUNK_BOX, DirectChunk, JobResult, ModelOffer, Reply, Session
from aos_protocol.record import Record
from aos_protocol.sealing import SealingKey, seal
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, SessionClaim, recover_typed, sign_typed

MAX_DIRECT_PROMPT: Final = 700 << 10
"""How many bytes the JSON of a direct prompt has at most: sealed and in base64, it fits a box."""

MAX_ANSWER: Final = 16 << 20
"""How many bytes the pieces of one answer have together at most, its transcript included."""

_PIECE: Final = 4096  # characters; sealed, at most 33 KiB of base64, whatever JSON makes of them
_SALT_BYTES: Final = 32
_HEAD: Final = struct.Struct(">IB")
_UNSIGNED: Final = "00" * 65


class Prompt(Message):
    """What is sealed to the operator: the salt of the commitment (32 bytes in hex), and a `prompt` or `messages`."""

    salt: Hex32
    prompt: Text | None = None
    messages: list[ChatMessage] | None = None

    @classmethod
    def fresh(cls, said: Mapping[str, Any]) -> Self:
        """Return a prompt (`{"prompt": ...}` or `{"messages": [...]}`) with a new salt. Raises `InvalidMessage`."""
        return parse_message(cls, {**said, "salt": secrets.token_hex(_SALT_BYTES)})

    def commitment(self) -> str:
        """Return the SHA-256 hex of the salt's bytes and of the RFC 8785 JSON of prompt or messages."""
        said = self.to_json()
        del said["salt"]
        return hashlib.sha256(bytes.fromhex(self.salt) + canonical(said)).hexdigest()

    def in_place(self, job: JobSpec) -> JobSpec:
        """Return the job with this prompt in place of its `direct` one. Raises `NotSealed` when it is no prompt that can be run."""
        said = job.to_json() | self.to_json()
        del said["direct"], said["salt"]
        try:
            return parse_message(JobSpec, said)
        except InvalidMessage as error:
            raise NotSealed(f"what was sealed is no prompt: {error}") from error


class Commitments(Message):
    """The `result` of a direct job: what its operator signs of an answer that it shows to its client only.

    `prompt` is the job's own commitment; `answer` is one to the text, with a salt that the client is told. The transcript, where the backend gives
    one, is committed to in the result's record, with the same salt (`hidden_transcript`): by bare digests, guesses could be checked.
    """

    prompt: Hex32
    answer: Hex32

    @classmethod
    def to(cls, prompt: str, salt: str, answer: str) -> Self:
        """Commit to an answer; `prompt` is the job's commitment."""
        return cls(prompt=prompt, answer=_commit(salt, "answer", answer.encode()))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a direct job's result. Raises `InvalidMessage` for another one, also for one in another than its RFC 8785 form."""
        try:
            read = parse_message(cls, parse(text))
        except NotCanonical as error:
            raise InvalidMessage(f"the result of a direct job is JSON: {error}") from None
        if read.text() != text:
            raise InvalidMessage("the result of a direct job is RFC 8785 JSON")
        return read

    def text(self) -> str:
        """Return the RFC 8785 JSON that stands as the result."""
        return canonical(self.to_json()).decode()


class Ending(Message):
    """What the last pieces of an answer hold: its salt, and its transcript, or the record of what its backend shows; or in place of all why there is no answer."""

    salt: Hex32 | None = None
    transcript: dict[str, Any] | None = None
    record: Record | None = None
    error: Text | None = None


@dataclass(frozen=True)
class Bond:
    """What every box of one direct job is bound to."""

    job_id: str
    operator: str
    job: JobSpec

    @property
    def client_key(self) -> str:
        """The key that answers are sealed to. Raises `NotSealed` for a job that is not direct."""
        return self._direct.client_key

    @property
    def commitment(self) -> str:
        """The commitment that the job binds. Raises `NotSealed` for a job that is not direct."""
        return self._direct.commitment

    @property
    def _direct(self) -> Direct:
        if self.job.direct is None:
            raise NotSealed("the job's prompt is not a direct one")
        return self.job.direct

    def prompt_info(self) -> bytes:
        """Return HPKE's `info` of the prompt's box."""
        return canonical(
            {
                "use": "aos-direct-prompt/1",
                "client_key": self.client_key,
                "commitment": self.commitment,
                "job_id": self.job_id,
                "model": self.job.model,
                "operator": self.operator,
                "params": self.job.params.digest(),
            }
        )

    def piece_info(self, salt: str, index: int, *, last: bool) -> bytes:
        """Return HPKE's `info` of a piece of the answer; `salt` is the prompt's."""
        return canonical(
            {
                "use": "aos-direct-answer/1",
                "index": index,
                "job_id": self.job_id,
                "last": last,
                "operator": self.operator,
                "salt": salt,
            }
        )


def sign_session(signer: Signer, domain: Domain, session: Session) -> Session:
    """Return a session with the dispatcher's signature in place of whatever it had."""
    return session.model_copy(update={"signature": sign_typed(signer, domain, _claim(session))})


def unsigned_session(
    *,
    job_id: str,
    dispatcher: str,
    operator: str,
    model: ModelOffer,
    seed: str,
    key: str,
    url: str | None,
    expires_at: int,
) -> Session:
    """Return a session that `sign_session` is yet to sign."""
    return Session(
        job_id=job_id,
        dispatcher=dispatcher,
        operator=operator,
        model=ModelOffer(name=model.name, sha256=model.sha256),
        seed=seed,
        key=key,
        url=url,
        expires_at=expires_at,
        signature=_UNSIGNED,
    )


def check_session(session: Session, domain: Domain, *, dispatcher: str, job_id: str) -> None:
    """Raise unless this dispatcher signed the session, and it is for this job. Whether it has expired, the caller looks.

    Raises `InvalidSignature` or `InvalidMessage`.
    """
    signer = recover_typed(domain, _claim(session), session.signature)
    if not signer == session.dispatcher == dispatcher:
        raise InvalidSignature(f"the session is signed by {signer}, not by the dispatcher {dispatcher}")
    if session.job_id != job_id:
        raise InvalidMessage(f"the session is for job {session.job_id}, not for {job_id}")


def check_acceptance(session: Session, frame_text: str) -> None:
    """Raise unless the operator itself accepted the session, and with it the key that prompts are sealed to.

    `frame_text` is its signed reply to the dispatch. So a dispatcher cannot put a key of its own into a session of an operator that it is not.
    Raises `ProtocolError`.
    """
    frame = open_frame(frame_text)
    reply = parse_message(Reply, frame.result)
    if frame.address != session.operator:
        raise InvalidSignature(
            f"the session is accepted by {frame.address}, not by its operator {session.operator}"
        )
    if reply.code != 200 or reply.accepted != digest(session.to_json()):
        raise InvalidMessage("what the operator accepted is not this session")


def seal_prompt(prompt: Prompt, bond: Bond, key: str) -> str:
    """Seal a prompt to a session's key; returns the box in base64. Raises `NotSealed` for too long a prompt or an unusable key."""
    text = canonical(prompt.to_json())
    if len(text) > MAX_DIRECT_PROMPT:
        raise NotSealed(
            f"the prompt has {len(text)} bytes as JSON, at most {MAX_DIRECT_PROMPT} are taken: send less"
        )
    return seal(text, key, bond.prompt_info())


def open_prompt(key: SealingKey, box: str, bond: Bond) -> Prompt:
    """Open a prompt that was sealed to this key for exactly this job, and hold it against the job's commitment. Raises `NotSealed`."""
    try:
        prompt = parse_message(Prompt, parse(key.open(box, bond.prompt_info())))
    except (InvalidMessage, NotCanonical) as error:
        raise NotSealed(f"what was sealed is no prompt: {error}") from error
    if prompt.commitment() != bond.commitment:
        raise NotSealed("this is not the prompt that the job commits to")
    seal(b"", bond.client_key, b"")  # an unusable key is found before the model has run for it
    return prompt


class AnswerSealer:
    """Seals one answer, piece by piece; `prompt` is the one that was opened for it."""

    def __init__(self, bond: Bond, prompt: Prompt) -> None:
        self._bond = bond
        self._salt = prompt.salt
        self._index = 0

    def text(self, text: str) -> list[DirectChunk]:
        """Seal some more text of the answer."""
        return [self._sealed({"text": part}, last=False) for part in _parts(text)]

    def end(self, ending: Ending) -> list[DirectChunk]:
        """Seal what an answer ends with. Nothing may be sealed after it."""
        parts = list(_parts(canonical(ending.to_json()).decode()))
        return [
            self._sealed({"end": part}, last=number == len(parts)) for number, part in enumerate(parts, 1)
        ]

    def _sealed(self, said: JsonValue, *, last: bool) -> DirectChunk:
        info = self._bond.piece_info(self._salt, self._index, last=last)
        self._index += 1
        return DirectChunk(last=last, box=seal(canonical(said), self._bond.client_key, info))


class AnswerOpener:
    """Opens one answer, piece by piece, with the client's key of that job."""

    def __init__(self, bond: Bond, prompt: Prompt, key: SealingKey) -> None:
        self._bond = bond
        self._salt = prompt.salt
        self._key = key
        self._index = self._size = 0
        self._end = ""
        self._ended = False
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return "".join(self._text)

    def take(self, chunk: DirectChunk) -> str:
        """Return the text of the next piece; it may be empty. Raises `NotSealed` for any other piece than the next, or a changed one."""
        if self._ended:
            raise NotSealed("something comes after the answer's last piece")
        said = self._opened(chunk)
        text, end = said.get("text"), said.get("end")
        if isinstance(text, str) and not self._end and not chunk.last:
            self._text.append(text)
            return text
        if not isinstance(end, str):
            raise NotSealed("a piece of the answer holds something else than it may here")
        self._end += end
        self._ended = chunk.last
        return ""

    def ending(self) -> Ending:
        """Return what the answer ended with. Raises `NotSealed` when its last piece never came."""
        if not self._ended:
            raise NotSealed("the answer was cut short: its last piece is missing")
        try:
            return parse_message(Ending, parse(self._end))
        except (InvalidMessage, NotCanonical) as error:
            raise NotSealed(f"the answer's end cannot be read: {error}") from error

    def _opened(self, chunk: DirectChunk) -> dict[str, JsonValue]:
        info = self._bond.piece_info(self._salt, self._index, last=chunk.last)
        text = self._key.open(chunk.box, info)
        self._index += 1
        self._size += len(text)
        if self._size > MAX_ANSWER:
            raise NotSealed(f"the answer is longer than {MAX_ANSWER} bytes")
        try:
            said = parse(text)
        except NotCanonical as error:
            raise NotSealed(f"a piece of the answer cannot be read: {error}") from error
        if not isinstance(said, dict):
            raise NotSealed("a piece of the answer is no JSON object")
        return said


def pack(chunk: DirectChunk) -> bytes:
    """Return a piece as it travels over HTTP: its box's length in 4 bytes, big-endian, a byte that is 1 for the last, the box's bytes."""
    box = base64.b64decode(chunk.box)
    return _HEAD.pack(len(box), chunk.last) + box


class Unpacker:
    """Finds the pieces in what HTTP brings of an answer, however that was cut."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[DirectChunk]:
        """Take some bytes and return the pieces that are complete. Raises `NotSealed` for what is no such stream."""
        self._held += data
        chunks = []
        while len(self._held) >= _HEAD.size:
            size, last = _HEAD.unpack_from(self._held)
            if size > MAX_CHUNK_BOX or last > 1:
                raise NotSealed("this is no stream of a direct answer")
            if len(self._held) < _HEAD.size + size:
                break
            box = bytes(self._held[_HEAD.size : _HEAD.size + size])
            del self._held[: _HEAD.size + size]
            chunks.append(_chunk(box, last=bool(last)))
        return chunks


def hidden_transcript(salt: str, commitment: str) -> str:
    """Return what a direct answer's record says of its transcript, which has this commitment."""
    return _commit(salt, "transcript", bytes.fromhex(commitment))


def check_answer(result: JobResult, bond: Bond, seed: str, answer: str, ending: Ending) -> Transcript | None:
    """Raise unless this answer and its ending are those that the operator signed for; return the transcript, if it gave one.

    1. The result commits to the job's prompt, and to this text.  2. The record that it comes with commits to this transcript, or to none.
    3. The transcript is of the model, parameters and seed of the job, and of its operator. Whether the result is signed, and in its place, is for
    the evidence's checks to say. Raises `NotSealed`, `InvalidMessage` or `InvalidTranscript`.
    """
    if ending.salt is None:
        raise NotSealed(
            "the answer's end brings no salt, by which it could be held against what its operator signed"
        )
    if Commitments.read(result.result) != Commitments.to(bond.commitment, ending.salt, answer):
        raise NotSealed("the answer is not the one that its operator signed for")
    transcript = None if ending.transcript is None else Transcript.from_json(ending.transcript)
    hidden = None if transcript is None else hidden_transcript(ending.salt, transcript.commitment())
    if parse_message(Record, result.record).transcript != hidden:
        raise NotSealed("the transcript is not the one that its operator signed for")
    if transcript is not None:
        _check_transcript(transcript, result, bond, seed)
    return transcript


def _check_transcript(transcript: Transcript, result: JobResult, bond: Bond, seed: str) -> None:
    if (transcript.model, transcript.seed, transcript.prover) != (result.model.sha256, seed, bond.operator):
        raise InvalidTranscript("the transcript is of another model, seed or operator than the job's")
    if digest(transcript.params.model_dump(mode="json")) != bond.job.params.digest():
        raise InvalidTranscript("the transcript was made with other parameters than the job's")


def _chunk(box: bytes, *, last: bool) -> DirectChunk:
    try:
        return parse_message(DirectChunk, {"last": last, "box": base64.b64encode(box).decode()})
    except InvalidMessage as error:
        raise NotSealed(f"this is no piece of a direct answer: {error}") from error


def _claim(session: Session) -> SessionClaim:
    return SessionClaim(
        job_id=session.job_id,
        operator=session.operator,
        model=session.model.sha256,
        seed=session.seed,
        key=session.key,
        url=session.url or "",
        expires_at=session.expires_at,
    )


def _commit(salt: str, what: str, value: bytes) -> str:
    """SHA-256 hex of the salt's bytes, of what is committed to, a zero byte, and the value."""
    return hashlib.sha256(bytes.fromhex(salt) + what.encode() + b"\0" + value).hexdigest()


def _parts(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]
