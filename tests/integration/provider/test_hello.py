"""The test call of a starting provider, to servers whose first words are no answer, or that list their models in another shape."""

import pytest
from structlog.testing import capture_logs

from aos_cli.provider_backend import Provided
from aos_cli.provider_hello import ModelServerFailed, say_hello
from aos_cli.provider_settings import ProviderSettings
from aos_cli.provider_steps import Steps
from aos_operator.backends.dialects import Source
from aos_operator.backends.text import TextBackend
from integration.provider.conftest import PROVIDER
from integration.provider.fake_model_server import FakeModelServer


async def hello(server: FakeModelServer, model: str = "llama3:8b") -> list[str]:
    """Say hello; what was said meanwhile."""
    settings = ProviderSettings.model_validate(
        {
            "apiHostname": "127.0.0.1",
            "apiPort": server.port,
            "modelName": model,
            "name": "twinnydotdev",
            "serverKey": PROVIDER,
            "userSecret": "correct horse battery staple",
        }
    )
    backend = TextBackend(Source("openai", settings.api_url, models={model: model}))
    try:
        with capture_logs() as logs:
            provided = Provided(backend, model, "twinnydotdev", None)
            await say_hello(provided, settings, PROVIDER, Steps(watched=False))
    finally:
        await backend.close()
    return [log["event"] for log in logs]


async def test_a_model_that_thinks_first_streams_and_the_provider_is_told_what_that_means(
    server: FakeModelServer,
) -> None:
    server.thinks = True
    *steps, warning, last = await hello(server)
    assert steps == ["saying hello to the model server", "sending a test request", "checking the stream"]
    assert "llama3:8b said nothing in the 16 tokens of the test call" in warning
    assert last == "the test call succeeded"


async def test_one_that_answers_is_said_nothing_of(server: FakeModelServer) -> None:
    assert (await hello(server))[-2:] == ["checking the stream", "the test call succeeded"]


async def test_one_that_answers_in_one_piece_does_not_stream(server: FakeModelServer) -> None:
    server.streams = False
    with pytest.raises(ModelServerFailed, match="answers, and does not stream"):
        await hello(server)


async def test_a_file_may_be_named_without_the_folder_that_it_is_listed_with(server: FakeModelServer) -> None:
    """llama-server lists the path of its file, and takes any name in a request."""
    server.models, server.listed = ["/models/it.gguf", "it.gguf"], ["/models/it.gguf"]
    assert (await hello(server, "it.gguf"))[-1] == "the test call succeeded"
