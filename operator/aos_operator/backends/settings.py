"""One entry of `backends:` in an operator's settings."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from aos_operator.backends.dialects import DIALECTS, Source
from aos_protocol.errors import InvalidTemplate
from aos_protocol.fields import ModelKind, ShortText
from aos_protocol.fim import TEMPLATES, FimTemplate, custom
from aos_service.transport import worker_address

_CUSTOM = "custom:"

ServerKind = Literal[
    "worker",
    "openai",
    "vllm",
    "sglang",
    "lmstudio",
    "litellm",
    "oobabooga",
    "ollama",
    "openwebui",
    "llamacpp",
]
"""What can be put behind an operator: our own worker, and the servers of `dialects.DIALECTS`."""


def _template(text: str) -> str:
    template_of(text)
    return text


def template_of(text: str) -> FimTemplate:
    """Return the template that a setting names, or for `custom:TEXT` the one of that text. Raises `ValueError`."""
    if text in TEMPLATES:
        return TEMPLATES[text]
    if not text.startswith(_CUSTOM):
        raise ValueError(
            f"must be one of {', '.join(TEMPLATES)}, or custom:TEXT with {{prefix}} and {{suffix}}"
        )
    try:
        return custom(text.removeprefix(_CUSTOM))
    except InvalidTemplate as error:
        raise ValueError(str(error)) from None


class BackendSettings(BaseModel):
    """A server that runs models: of which kind, where (default: where that kind listens), and what is taken from it.

    `models` are names on the network with the server's own. `files` are the GGUF files that it has loaded, by names on the network: their
    digests let others score what the server shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ServerKind
    url: str | None = None
    api_key: SecretStr | None = None
    models: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=256)
    files: dict[ShortText, Path] = Field(default_factory=dict, max_length=256)
    fim: Annotated[str, AfterValidator(_template)] | None = None
    evidence: Literal["token_ids", "logprobs", "text"] | None = None
    kinds: list[ModelKind] = Field(default=[0], min_length=1, max_length=3)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "worker":
            self._check_worker()
        elif self.url is not None:
            _check_url(self.url)
        if self.makes_images:
            self._check_images()
        if self.evidence == "token_ids" and not self.files:
            raise ValueError(
                "evidence token_ids needs files: token ids are of use to those only who have the model's file"
            )
        if self.models and not set(self.files) <= set(self.models):
            raise ValueError("files names a model that is not in models: both have names on the network")
        return self

    @property
    def makes_images(self) -> bool:
        """True for a server of image models."""
        return 0 not in self.kinds

    def source(self, timeout: float) -> Source:
        """Return how to speak to the server, if it is not our worker; `timeout` is for one answer, in seconds."""
        return Source(
            kind=self.kind,
            url=self.url or "",
            key=self.api_key,
            models=self.models,
            files=self.files,
            template=None if self.fim is None else template_of(self.fim),
            evidence=self.evidence,
            timeout=timeout,
        )

    def _check_worker(self) -> None:
        if self.url is None:
            raise ValueError(
                "a worker needs its url: http://host:port, unix:///folder/worker.sock or vsock://CID:PORT"
            )
        worker_address(self.url)
        mine = self.model_fields_set - {"kind", "url"}
        if mine:
            raise ValueError(f"a worker has its own settings: leave out {', '.join(sorted(mine))}")

    def _check_images(self) -> None:
        if DIALECTS[self.kind].tongue != "openai":
            raise ValueError("kinds 1 and 2 (images) are for servers with OpenAI's API: kind openai")
        if not self.models:
            raise ValueError(
                "a server of images needs models: it does not say which of its models make images"
            )

    @model_validator(mode="after")
    def _one_sort(self) -> Self:
        if len(self.kinds) > 1 and 0 in self.kinds:
            raise ValueError("kinds has text (0) and images (1, 2): write an entry for each")
        return self


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"url cannot be read: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("url must be http://host:port or https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url has a password in it: give it as api_key")
    if parts.query or parts.fragment:
        raise ValueError("url has a query or fragment: it ends before them")
