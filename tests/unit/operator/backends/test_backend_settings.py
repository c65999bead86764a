from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aos_operator.backends.build import open_backend, open_backends
from aos_operator.backends.images import ImagesBackend
from aos_operator.backends.settings import BackendSettings
from aos_operator.backends.text import TextBackend
from aos_operator.backends.worker import HttpWorker
from aos_operator.settings import OperatorSettings
from aos_protocol.fim import TEMPLATES

TEMPLATE = Path(__file__).parents[4] / "docs" / "template" / "config-operator.yaml"
EXAMPLES = [
    yaml.safe_load(line.removeprefix("#   - "))
    for line in TEMPLATE.read_text().splitlines()
    if line.startswith("#   - {")
]


def settings(**said: Any) -> BackendSettings:
    return BackendSettings.model_validate(said)


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: entry["kind"])
def test_the_templates_examples_are_entries(entry: dict[str, Any]) -> None:
    BackendSettings.model_validate(entry)


def test_the_examples_show_every_key() -> None:
    assert {key for entry in EXAMPLES for key in entry} == set(BackendSettings.model_fields)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"kind": "gpu"}, "kind"),
        ({"kind": "ollama", "modells": {}}, "modells"),
        ({"kind": "worker"}, "a worker needs its url"),
        ({"kind": "worker", "url": "ftp://h"}, "must be http://host:port"),
        ({"kind": "worker", "url": "http://h:1", "fim": "codellama"}, "leave out fim"),
        ({"kind": "openai", "url": "unix:///x"}, "url must be http"),
        ({"kind": "openai", "url": "http://u:p@h"}, "give it as api_key"),
        ({"kind": "openai", "url": "http://h:x"}, "url cannot be read"),
        ({"kind": "openai", "url": "http://h/?a"}, "query"),
        (
            {"kind": "ollama", "fim": "llama"},
            "must be one of codellama, deepseek, starcoder, codegemma, or custom:",
        ),
        ({"kind": "ollama", "fim": "custom:{prefix}"}, "each once"),
        ({"kind": "llamacpp", "evidence": "fingerprints"}, "evidence"),
        ({"kind": "llamacpp", "evidence": "token_ids"}, "needs files"),
        ({"kind": "llamacpp", "models": {"a": "b"}, "files": {"c": "d"}}, "not in models"),
        ({"kind": "openai", "kinds": [0, 1], "models": {"a": "b"}}, "write an entry for each"),
        ({"kind": "openai", "kinds": [1]}, "needs models"),
        ({"kind": "ollama", "kinds": [2], "models": {"a": "b"}}, "kind openai"),
        ({"kind": "ollama", "models": {"": "b"}}, "models"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**said)
    assert problem in str(caught.value)


def test_a_template_is_chosen_by_name_or_written_out() -> None:
    assert settings(kind="ollama", fim="deepseek").source(1).template is TEMPLATES["deepseek"]
    written = settings(kind="ollama", fim="custom:<{suffix}|{prefix}>").source(1).template
    assert written is not None
    assert (written.order, written.prefix) == ("spm", "|")
    assert settings(kind="ollama").source(1).template is None


async def test_each_entry_becomes_its_backend() -> None:
    worker = open_backend(settings(kind="worker", url="http://127.0.0.1:5005"), 1)
    server = open_backend(settings(kind="vllm"), 1)
    painter = open_backend(settings(kind="openai", kinds=[1, 2], models={"a": "b"}), 1)
    assert (type(worker), type(server), type(painter)) == (HttpWorker, TextBackend, ImagesBackend)
    for backend in (worker, server, painter):
        await backend.close()
    await open_backends([settings(kind="ollama"), settings(kind="vllm")], 1).close()


@pytest.mark.parametrize(
    ("net", "node", "problem"),
    [
        ({"worker_url": "http://127.0.0.1:5005"}, {}, "stand in place of net.worker_url"),
        ({}, {"node_type": "tee"}, "are for node_type opml"),
    ],
)
def test_backends_stand_in_place_of_the_worker(
    net: dict[str, Any], node: dict[str, Any], problem: str
) -> None:
    whole = {
        "db": {"pg_db_url": "postgres://h/x"},
        "queue": {"queue_url": "redis://h"},
        "net": {"dispatcher_url": "ws://h/ws"},
        "node": {"dispatcher_address": "0x" + "00" * 20},
        "backends": [{"kind": "ollama", "api_key": "a-secret"}],
    }
    fine = OperatorSettings.model_validate(whole)
    assert "a-secret" not in repr(fine)
    for group, more in (("net", net), ("node", node)):
        whole[group] = {**whole[group], **more}  # type: ignore[dict-item]
    with pytest.raises(ValidationError, match=problem):
        OperatorSettings.model_validate(whole)
