"""What a project asks for: the job, its prompt in one of its forms, and the request that a job id binds."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from aos_protocol import fingerprint
from aos_protocol.canonical import JsonValue, canonical, digest
from aos_protocol.errors import InvalidTranscript
from aos_protocol.fields import (
    Address,
    Base64,
    Hex32,
    Message,
    ModelKind,
    ShortText,
    Tag,
    Text,
    TokenId,
    WorkerType,
    storable,
)
from aos_protocol.transcript import MAX_STOPS

MAX_BOXES = 16
"""How many enclaves a prompt can be sealed to."""

MAX_IMAGES = 4
"""How many images one job makes."""

MAX_LOGPROBS = 20
"""How many alternatives of a token an answer can show."""

MAX_BOX_CHARACTERS = 960 << 10
"""How many characters the boxes of a sealed prompt have together, so that a request with them is a body of less than 1 MiB."""


class Params(Message):
    """Sampling parameters; what a project leaves out has these defaults, which its digest covers too."""

    temperature: float = Field(1.0, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int = Field(256, ge=1, le=65_536)
    stop: list[ShortText] = Field(default_factory=list, max_length=MAX_STOPS)

    def digest(self) -> str:
        """Return the SHA-256 hex of all parameters in canonical JSON, defaults included."""
        return digest(self.model_dump())


class ChatMessage(Message):
    """One turn of a conversation, for models with a chat template."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Claim(Message):
    """An answer that somebody claims to have from the model: its text or its token ids, and what else makes it checkable.

    `seed` is the job's seed that it was drawn with, `fingerprints` are its transcript's, made by `prover`. The more a
    claim brings, the stronger its verdict: likelihood, greedy (temperature 0), seeded, fingerprint.
    """

    text: Annotated[str, StringConstraints(min_length=1), AfterValidator(storable)] | None = None
    output_tokens: list[TokenId] | None = Field(default=None, min_length=1, max_length=65_536)
    seed: Hex32 | None = None
    prover: (
        Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(storable)] | None
    ) = None
    fingerprints: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.text is None) == (self.output_tokens is None):
            raise ValueError("give exactly one of text and output_tokens")
        if self.fingerprints is None:
            return self
        if self.output_tokens is None or self.seed is None or self.prover is None:
            raise ValueError("fingerprints need output_tokens, seed and prover beside them")
        try:
            fingerprint.from_text(self.fingerprints, len(self.output_tokens))
        except InvalidTranscript as error:
            raise ValueError(str(error)) from None
        return self

    def made_by(self, operator: str) -> bool:
        """Whether this operator is named as the prover, who does not judge."""
        return self.prover is not None and self.prover.lower() == operator.lower()

    def digest(self) -> str:
        """Return the SHA-256 hex of the claim's canonical JSON, which scores name as their subject."""
        return digest(self.to_json())


class SealedBox(Message):
    """A prompt encrypted to one enclave: which operator it is behind, its keyset's digest, and the HPKE message."""

    operator: Address
    keyset: Hex32
    box: Annotated[Base64, StringConstraints(min_length=1)]


class Sealed(Message):
    """A prompt that only enclaves can read, and the key to which they encrypt the answer (`aos_protocol.sealing`).

    `suite` are the code points of RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. `reply_key` is an X25519
    public key, made for this job alone. Any enclave that a box is for may run the job.
    """

    suite: Literal["0x0020-0x0001-0x0002"]
    reply_key: Hex32
    boxes: list[SealedBox] = Field(min_length=1, max_length=MAX_BOXES)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({box.keyset for box in self.boxes}) != len(self.boxes):
            raise ValueError("two boxes are for the same keyset")
        total = sum(len(box.box) for box in self.boxes)
        if total > MAX_BOX_CHARACTERS:
            raise ValueError(
                f"its boxes have {total} characters, at most {MAX_BOX_CHARACTERS} are taken: seal a shorter prompt, or to fewer enclaves"
            )
        return self

    @property
    def operators(self) -> frozenset[str]:
        """The operators that have an enclave which can read it."""
        return frozenset(box.operator for box in self.boxes)

    def has_box(self, operator: str, keyset: str) -> bool:
        """Whether the enclave with this keyset (its digest) can read it, behind this operator."""
        return any((box.operator, box.keyset) == (operator, keyset) for box in self.boxes)


class Direct(Message):
    """A prompt that goes to the executor alone, once it is drawn, encrypted from end to end (docs/protocol.md).

    `client_key` is an X25519 public key, made for this job alone; `commitment` binds the prompt before anybody knows who will read it.
    """

    client_key: Hex32
    commitment: Hex32


class ImageSpec(Message):
    """How many images to make, of which size in pixels. With a `source`, the SHA-256 of an image that the dispatcher holds, that one is edited."""

    n: int = Field(1, ge=1, le=MAX_IMAGES)
    width: int = Field(1024, ge=64, le=2048)
    height: int = Field(1024, ge=64, le=2048)
    source: Hex32 | None = None

    @property
    def kind(self) -> ModelKind:
        """Which kind of model makes them."""
        return 1 if self.source is None else 2


class JobSpec(Message):
    """What to run: a raw `prompt`, chat `messages`, a `sealed` or a `direct` prompt. With a `claim`, nothing is run: the claim is scored.

    A `suffix` has the model fill in what is between it and the prompt, and an `image` has it paint the prompt. With `logprobs`, an answer
    says of each token how likely it and so many others were; with `stream`, its text is told as it comes. The `seed` is the project's own:
    the job id binds it, and so it is mixed into the job's seed, which nobody chooses.
    """

    tag: WorkerType
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)] | None = None
    sealed: Sealed | None = None
    model: ShortText
    params: Params = Params()
    claim: Claim | None = None
    suffix: Text | None = None
    seed: int | None = Field(None, ge=-(2**53) + 1, lt=2**53)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    stream: Literal[True] | None = None
    image: ImageSpec | None = None
    direct: Direct | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        given = (self.prompt, self.messages, self.sealed, self.direct)
        if sum(prompt is not None for prompt in given) != 1:
            raise ValueError("give exactly one of prompt, messages, sealed and direct")
        if self.sealed is not None and (self.tag != "tee" or self.claim is not None):
            raise ValueError("a sealed prompt needs job type tee, and allows no claim")
        if self.direct is not None and self.tag != "opml":
            raise ValueError("a direct prompt needs job type opml: for an enclave, seal it to the enclave")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        """Refuse what does not go together, by name."""
        if self.suffix is not None and self.prompt is None:
            raise ValueError("a suffix needs a prompt beside it")
        if self.image is not None and (self.prompt is None or self.tag != "opml"):
            raise ValueError("an image needs a prompt beside it, and job type opml")
        hidden = "sealed" if self.sealed else "direct" if self.direct else "image" if self.image else None
        for name in ("suffix", "logprobs", "stream", "claim"):
            if hidden is not None and getattr(self, name) is not None:
                raise ValueError(f"{hidden} and {name} do not go together")
        if self.claim is not None and self.stream is not None:
            raise ValueError("nothing is run of a claim, hence nothing streamed")
        return self

    @property
    def hidden(self) -> bool:
        """True when nobody but whoever runs it can read the prompt, so that others have nothing to score."""
        return self.sealed is not None or self.direct is not None

    @property
    def kind(self) -> ModelKind:
        """Which kind of model the job is for."""
        return 0 if self.image is None else self.image.kind

    def prompt_bytes(self) -> bytes:
        """Return what stands for the prompt wherever it is hashed.

        That is its UTF-8, else RFC 8785 JSON: of messages, of the sealed or direct form, of a prompt with its `suffix` or `image`.
        """
        if self.suffix is not None:
            return canonical({"prompt": self.prompt, "suffix": self.suffix})
        if self.image is not None:
            return canonical({"image": self.image.to_json(), "prompt": self.prompt})
        if self.prompt is not None:
            return self.prompt.encode()
        hidden = self.sealed or self.direct
        if hidden is not None:
            return canonical(hidden.to_json())
        turns: JsonValue = [turn.model_dump() for turn in self.messages or []]
        return canonical(turns)

    def prompt_hash(self) -> str:
        """Return the SHA-512 hex of `prompt_bytes`, as `vrf_prompt_hash` shows it."""
        return hashlib.sha512(self.prompt_bytes()).hexdigest()

    def prompt_digest(self) -> str:
        """Return the SHA-256 hex of `prompt_bytes`, which an enclave's signature covers."""
        return hashlib.sha256(self.prompt_bytes()).hexdigest()


class SubmitRequest(Message):
    """The body of `/api/job/submit` without its token, which is what a job id binds."""

    project: ShortText = Field(alias="from")
    tag: Tag = ""
    user: ShortText
    job: JobSpec
