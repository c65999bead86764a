"""`GET /api/attestation`: what anybody gets of the enclaves that are connected, and that a few callers cannot keep them busy."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from aos_dispatcher.settings import Limits
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.statement import Attestation
from aos_protocol.fields import parse_message
from support.operators import MODEL

NONCE = "5e" * 32
PATIENCE_S = 0.5
PAGE = Path(__file__).parents[3] / "docs" / "api.md"


async def ask(network: Any, **changes: str) -> Any:
    """The response to a call."""
    return await network.client.get(
        "/api/attestation", params={"model": MODEL.name, "nonce": NONCE} | changes
    )


async def rows(network: Any, **changes: str) -> list[dict[str, Any]]:
    answer = await ask(network, **changes)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["result"]
    return found


async def test_every_connected_enclave_attests_on_the_callers_nonce(enclaved: Any) -> None:
    operators = [await enclaved.enclave(number) for number in (1, 2, 3)]
    await enclaved.operator()  # of opml, which is not asked
    found = await rows(enclaved)
    assert [row["operator"] for row in found] == sorted(operator.signer.address for operator in operators)
    keysets = {operator.signer.address: operator.enclave.keyset.digest() for operator in operators}
    for row in found:
        attestation = parse_message(Attestation, row["attestation"])
        said = appraise(attestation, enclaved.policy, model=MODEL.name, nonce=NONCE, now=int(time.time()))
        assert (said.kind, said.keyset) == ("simulated", keysets[row["operator"]])


async def test_what_an_operator_answers_is_passed_on_but_not_vouched_for(enclaved: Any) -> None:
    """A replayed attestation is passed on as it is: whoever asked finds that its nonce is another one."""
    operator = await enclaved.enclave(1)
    replayed = operator.enclave.attest("77" * 32)
    operator.attest_reply = {"code": 200, "message": "success", "attestation": replayed}
    (row,) = await rows(enclaved)
    assert row == {"operator": operator.signer.address, "attestation": replayed}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"code": 503, "message": "the enclave is busy"}, "the enclave is busy"),
        ({"code": 200, "message": "success"}, "Attestation: "),
        ({"code": 200, "message": "success", "attestation": {"kind": "nitro"}}, "keyset: Field required"),
        ({"message": "no code"}, "Reply: code"),
    ],
)
async def test_who_gives_no_attestation_is_listed_with_the_reason(
    enclaved: Any, reply: dict[str, Any], reason: str
) -> None:
    good, bad = await enclaved.enclave(1), await enclaved.enclave(2)
    bad.attest_reply = reply
    found = {row["operator"]: row for row in await rows(enclaved)}
    assert set(found[good.signer.address]) == {"operator", "attestation"}
    assert set(found[bad.signer.address]) == {"operator", "reason"}
    assert reason in found[bad.signer.address]["reason"]


async def test_an_answer_far_larger_than_any_attestation_is_not_passed_on(enclaved: Any) -> None:
    enclaved.settings = enclaved.settings.model_copy(update={"limits": Limits()})
    await enclaved.rule(enclaved.policy)
    operator = await enclaved.enclave(1)
    large = operator.enclave.attest(NONCE) | {"collateral": {"pad": "x" * (257 << 10)}}
    operator.attest_reply = {"code": 200, "message": "success", "attestation": large}
    (row,) = await rows(enclaved)
    assert row["reason"] == "its answer is larger than 262144 bytes"


async def impatient(enclaved: Any) -> None:
    """Start the dispatcher anew with little patience in draws."""
    dispatch = enclaved.settings.dispatch.model_copy(update={"draw_timeout": PATIENCE_S})
    enclaved.settings = enclaved.settings.model_copy(update={"dispatch": dispatch})
    await enclaved.rule(enclaved.policy)


async def test_who_stays_silent_costs_a_draw_s_patience(enclaved: Any) -> None:
    await impatient(enclaved)
    good, silent = await enclaved.enclave(1), await enclaved.enclave(2)
    silent.attests = False
    began = time.monotonic()
    found = {row["operator"]: row for row in await rows(enclaved)}
    assert time.monotonic() - began >= PATIENCE_S
    assert "attestation" in found[good.signer.address]
    assert found[silent.signer.address]["reason"].endswith(f"did not answer attest within {PATIENCE_S:g} s")


async def test_several_who_stay_silent_are_waited_for_at_the_same_time(enclaved: Any) -> None:
    """The patience with one of them would last for ten seconds; before that is over, all have been asked."""
    silent = [await enclaved.enclave(number) for number in (1, 2, 3)]
    for operator in silent:
        operator.attests = False
        operator.heard.clear()
    asking = asyncio.create_task(rows(enclaved))
    async with asyncio.timeout(enclaved.settings.dispatch.draw_timeout):
        for operator in silent:
            await operator.heard.wait()
    for operator in silent:
        await operator.close()
    assert {row["operator"] for row in await asking} == {operator.signer.address for operator in silent}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"nonce": "5e" * 31}, "nonce"),
        ({"nonce": "5E" * 32}, "nonce"),
        ({"nonce": "zz" * 32}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
    ],
)
async def test_a_malformed_query_is_refused_by_field(
    enclaved: Any, changes: dict[str, str], field: str
) -> None:
    answer = await ask(enclaved, **changes)
    assert (answer.status_code, answer.json()["code"]) == (422, 422)
    assert f"query.{field}" in answer.json()["message"]


async def test_an_unknown_model_is_not_found_and_nobody_connected_is_an_empty_list(enclaved: Any) -> None:
    answer = await ask(enclaved, model="large.gguf")
    assert answer.status_code == 404
    assert answer.json()["message"] == (
        "no operator has announced model 'large.gguf' for job type tee; there is: tiny.gguf"
    )
    assert await rows(enclaved) == []


async def test_a_suspended_operator_is_not_asked(enclaved: Any) -> None:
    """No draw would ask it, so a prompt that is sealed to its enclave would wait for ever."""
    good, bad = await enclaved.enclave(1), await enclaved.enclave(2)
    async with enclaved.dispatcher.database.begin() as connection:
        suspend = text("update operators set suspended_at = now() where address = :operator")
        await connection.execute(suspend, {"operator": bad.signer.address})
    assert [row["operator"] for row in await rows(enclaved)] == [good.signer.address]


async def test_sixteen_are_asked_of_more_not_always_the_same(enclaved: Any) -> None:
    operators = {(await enclaved.enclave(number)).signer.address for number in range(1, 19)}
    seen: set[str] = set()
    for _ in range(30):
        asked = [row["operator"] for row in await rows(enclaved)]
        assert len(asked) == len(set(asked)) == 16
        seen |= set(asked)
        if seen == operators:
            return
    pytest.fail("thirty lots left somebody out")


async def test_too_many_callers_are_sent_away_for_a_moment(enclaved: Any) -> None:
    operator = await enclaved.enclave(1)
    operator.attests = False
    asking = [asyncio.create_task(ask(enclaved)) for _ in range(8)]
    waiting = set(asking)
    while len(waiting) > 4:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await operator.close()  # the others are not waited for any longer
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["message"] == "Too many ask for attestations at the same time; try again."
    operator.attests = True
    await operator.connect()
    assert "attestation" in (await rows(enclaved))[0]


def form(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: form(each) for name, each in value.items()}
    return [form(each) for each in value] if isinstance(value, list) else type(value)


async def test_the_answer_has_the_form_that_the_api_page_shows(enclaved: Any) -> None:
    shown = [
        json.loads(block) for block in re.findall(r"^```jsonc\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    ]
    (page,) = [block for block in shown if block["code"] == 200]
    await impatient(enclaved)
    attested, silent = await enclaved.enclave(1), await enclaved.enclave(2)
    silent.attests = False
    answer = (await ask(enclaved)).json()
    answer["result"].sort(key=lambda row: "reason" in row)
    assert form(answer) == form(page)
    assert attested.signer.address == answer["result"][0]["operator"]


async def test_the_refusal_that_the_api_page_shows_is_the_dispatchers(enclaved: Any) -> None:
    shown = [
        json.loads(block) for block in re.findall(r"^```jsonc\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    ]
    (page,) = [block for block in shown if block["code"] == 422]
    await enclaved.enclave(1)
    await enclaved.rule(
        enclaved.policy.model_copy(update={"models": {"other.gguf": enclaved.policy.models[MODEL.name]}})
    )
    job = {"tag": "tee", "prompt": "x", "model": MODEL.name}
    answer = (await enclaved.client.post("/api/job/submit", json=enclaved.body(job=job))).json()
    said = (
        answer["message"].replace("other.gguf", "aos-demo-5m.F16.gguf").replace(MODEL.name, "my-model.gguf")
    )
    assert {"code": answer["code"], "message": said} == page
