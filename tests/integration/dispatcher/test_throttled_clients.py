"""The limits of /v1 as clients meet them: the official openai package waits as it is told, and each answer says what is left."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import httpx
import openai
import pytest
import pytest_asyncio

from aos_dispatcher.rates import SLOWEST_RATE
from aos_dispatcher.settings import Gateway
from aos_dispatcher.throttling import LocalBuckets
from integration.dispatcher.several import several
from support.operators import MODEL

Network: TypeAlias = Any  # of conftest.py, which is no module to import
HELLO: Any = [{"role": "user", "content": "Hello"}]


class Clock:
    """Time as the limits see it: it goes on when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.waited: list[float] = []

    async def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def limited(unstarted: Network, clock: Clock) -> AsyncIterator[Network]:
    """A network whose tokens may send two requests at once, and one a second after that."""
    network = unstarted
    gateway = Gateway(token_rate=1, token_burst=2)
    network.settings = network.settings.model_copy(update={"gateway": gateway})
    await network.start()
    network.dispatcher.front.throttle._local = LocalBuckets(lambda: clock.now)
    await network.calibrate()
    await network.project()
    operator = await network.operator()
    yield network
    await operator.close()
    await network.stop()


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL.name, "messages": HELLO} | more


async def ask(network: Network, **more: Any) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {network.token}"}
    answer: httpx.Response = await network.client.post(
        "/v1/chat/completions", json=body(**more), headers=bearer
    )
    return answer


async def test_the_openai_package_waits_as_long_as_it_is_told_and_no_shorter(
    limited: Network, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.anyio.sleep", clock.wait)
    answers: list[tuple[int, str | None]] = []

    async def note(response: httpx.Response) -> None:
        answers.append((response.status_code, response.headers.get("retry-after")))

    async with openai.AsyncOpenAI(
        base_url=f"{limited.client.base_url}/v1",
        api_key=limited.token,
        max_retries=1,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]}),
    ) as client:
        assert (await ask(limited, n=2)).status_code == 200  # all that may be sent at once
        told = await client.chat.completions.with_raw_response.create(model=MODEL.name, messages=HELLO)
    assert told.status_code == 200
    # By itself it would have come again after half a second, in vain.
    assert answers == [(429, "1"), (200, None)]
    assert clock.waited == [1.0]


async def test_every_answer_says_what_is_left_and_n_costs_n(limited: Network, clock: Clock) -> None:
    first = await ask(limited, n=2)
    assert first.status_code == 200, first.text
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    never = await ask(limited, n=3)
    assert never.status_code == 422
    assert never.json()["error"]["message"].startswith("n: 3 answers are more than the 2 ")
    refused = await ask(limited, n=2)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.json()["limit"] == "token"
    assert (refused.headers["retry-after"], refused.headers["x-ratelimit-reset-requests"]) == ("2", "2s")
    assert (await ask(limited)).status_code == 429
    await clock.wait(1)
    assert (await ask(limited)).headers["x-ratelimit-remaining-requests"] == "0"


async def test_two_dispatchers_let_in_exactly_what_a_token_may_send(
    new_database: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aos_dispatcher.throttling._PATIENCE_S", 30.0
    )  # Redis is there, however busy the machine is
    gateway = Gateway(token_rate=SLOWEST_RATE, token_burst=5, address_rate=0)
    async with several(await new_database("dispatcher"), redis_url) as two:
        for network in two.networks:
            await two.operator(network)
            service = network.dispatcher
            settings = service.settings.model_copy(update={"gateway": gateway})
            object.__setattr__(service, "settings", settings)
        answers = await asyncio.gather(*(ask(two.networks[n % 2], user=f"user {n}") for n in range(14)))
    assert Counter(answer.status_code for answer in answers) == {200: 5, 429: 9}


async def test_a_conversation_goes_on_over_the_gateway_and_its_job_has_the_whole_prompt(
    network: Network,
) -> None:
    await network.operator()
    first = await ask(network, id="talk")
    assert first.status_code == 200, first.text
    second = await ask(network, id="talk")
    assert second.status_code == 200, second.text
    detail = await network.detail(second.json()["aos"]["job_id"])
    said = {"role": "assistant", "content": first.json()["choices"][0]["message"]["content"]}
    assert detail["job"]["messages"] == [*HELLO, said, *HELLO]
    assert all(check.status != "FAIL" for check in await network.checks(second.json()["aos"]["job_id"]))
    bearer = {"Authorization": f"Bearer {network.token}"}
    shown = await network.client.get("/v1/conversations/talk", headers=bearer)
    assert shown.json()["turns"] == 2


async def test_a_repeated_request_of_a_conversation_says_that_it_was_answered(network: Network) -> None:
    await network.operator()
    headers = {"Authorization": f"Bearer {network.token}", "Idempotency-Key": "once"}
    statuses = [
        (await network.client.post("/v1/chat/completions", json=body(id="talk"), headers=headers)).status_code
        for _ in range(2)
    ]
    assert statuses == [200, 409]
    shown = await network.client.get("/v1/conversations/talk", headers=headers)
    assert (shown.json()["turns"], len(shown.json()["messages"])) == (1, 2)
