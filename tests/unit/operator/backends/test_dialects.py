from typing import get_args

import pytest
from pydantic import SecretStr

from aos_operator.backends.dialects import DIALECTS, Source
from aos_operator.backends.settings import ServerKind
from aos_operator.backends.text import integer_seed

TWINNY = [
    # kind, port, chat, completion: as its page on inference providers has them
    ("ollama", 11434, None, "/api/generate"),
    ("openwebui", 8080, None, "/ollama/api/generate"),
    ("lmstudio", 1234, "/v1/chat/completions", "/v1/completions"),
    ("litellm", 4000, "/v1/chat/completions", "/v1/completions"),
    ("llamacpp", 8080, "/completion", "/completion"),
    ("oobabooga", 5000, "/v1/chat/completions", "/v1/completions"),
]


@pytest.mark.parametrize(("kind", "port", "chat", "completion"), TWINNY)
def test_hosts_ports_and_paths_are_those_of_the_document(
    kind: str, port: int, chat: str | None, completion: str
) -> None:
    dialect, source = DIALECTS[kind], Source(kind)
    assert dialect.url == f"http://localhost:{port}"
    assert source.base + dialect.completion == f"http://localhost:{port}{completion}"
    if chat is not None:
        assert source.base + dialect.chat == f"http://localhost:{port}{chat}"


def test_ollamas_own_chat_is_used_where_the_document_has_openais() -> None:
    """It takes what switches off the server's own sampling, which `/v1/chat/completions` of Ollama does not."""
    assert Source("ollama").base + DIALECTS["ollama"].chat == "http://localhost:11434/api/chat"
    assert Source("openwebui").base + DIALECTS["openwebui"].chat == "http://localhost:8080/ollama/api/chat"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("http://h:1/v1", "http://h:1/v1"),
        ("https://h/api/openai/", "https://h/api/openai"),
    ],
)
def test_a_bare_url_gets_the_prefix_of_its_kind(url: str, base: str) -> None:
    assert Source("openai", url).base == base


def test_every_kind_can_be_set_and_no_source_shows_its_key() -> None:
    assert set(get_args(ServerKind)) == {"worker", *DIALECTS}
    assert "secret" not in repr(Source("openai", key=SecretStr("secret")))


def test_the_seed_hangs_on_the_jobs_and_suits_every_server() -> None:
    seeds = {integer_seed(f"{number:064x}") for number in range(1000)}
    assert len(seeds) > 990
    assert all(1 <= seed < 2**31 for seed in seeds)
    assert integer_seed("ab" * 32) == integer_seed("ab" * 32) != integer_seed("ac" * 32)
