"""The kinds of model servers that are spoken to: where each listens by default, on which paths, and what it takes and shows.

Hosts, ports and paths are those that its own documents and Twinny's page on providers give.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import SecretStr

from aos_protocol.fields import EvidenceLevel
from aos_protocol.fim import FimTemplate

Tongue: TypeAlias = Literal["openai", "ollama", "llamacpp"]
"""The HTTP APIs that there are; every kind of server speaks one of them."""

HOST: Final = "localhost"


@dataclass(frozen=True)
class Dialect:
    """A kind of server. `prefix` is put before its paths where a URL has none, `evidence` is what its answers are known to show.

    `neutral` are the parameters that switch off what it would do to the distribution of tokens beside temperature and top-p.
    """

    tongue: Tongue
    port: int
    prefix: str
    chat: str
    completion: str
    evidence: EvidenceLevel = "text"
    neutral: Mapping[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where such a server listens unless it is told otherwise."""
        return f"http://{HOST}:{self.port}"


_NEUTRAL: Final = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}


def _openai(port: int, evidence: EvidenceLevel = "text", **neutral: float | bool) -> Dialect:
    return Dialect("openai", port, "/v1", "/chat/completions", "/completions", evidence, neutral)


DIALECTS: Final[Mapping[str, Dialect]] = {
    "ollama": Dialect("ollama", 11434, "", "/api/chat", "/api/generate", neutral=_NEUTRAL),
    "openwebui": Dialect("ollama", 8080, "/ollama", "/api/chat", "/api/generate", neutral=_NEUTRAL),
    "llamacpp": Dialect("llamacpp", 8080, "", "/completion", "/completion", "logprobs", _NEUTRAL),
    "lmstudio": _openai(1234, top_k=0, repeat_penalty=1.0),
    "litellm": _openai(4000),
    "oobabooga": _openai(5000, top_k=0, min_p=0.0, repetition_penalty=1.0),
    "vllm": _openai(8000, "logprobs", top_k=-1, min_p=0.0, repetition_penalty=1.0, return_token_ids=True),
    "sglang": _openai(30000, "logprobs", top_k=-1, min_p=0.0, repetition_penalty=1.0),
    "openai": _openai(8000),
}
"""By the name that settings give them; `openai` is any other server with that API, which is told nothing but what OpenAI takes."""


@dataclass(frozen=True)
class Source:
    """One model server as settings name it. `url` without a path gets its dialect's prefix; `timeout` is for one answer, in seconds.

    `models` are the names on the network with the server's own, empty for all that it serves under its names. `files` are the GGUF files
    that it has loaded, by names on the network. `evidence` is what it shows, where that is not what its kind is known for.
    """

    kind: str
    url: str = ""
    key: SecretStr | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    template: FimTemplate | None = None
    evidence: EvidenceLevel | None = None
    timeout: float = 900.0

    @property
    def dialect(self) -> Dialect:
        """How the server is spoken to."""
        return DIALECTS[self.kind]

    @property
    def base(self) -> str:
        """The URL that its paths follow."""
        url = (self.url or self.dialect.url).rstrip("/")
        return url if urlsplit(url).path else url + self.dialect.prefix

    @property
    def shows(self) -> EvidenceLevel:
        """What the answers of its models show; a model whose file is known may show more."""
        return self.evidence or self.dialect.evidence
