"""Images from end to end: asked for as OpenAI's clients and DBC's do, made by an operator's server, signed, and read by digest."""

import asyncio
import base64
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI

from aos_protocol.images import read_header
from integration.dispatcher.images.conftest import KEY, MODEL, Gallery
from support.fake_image_server import FakeImageServer
from support.pictures import large_png, png

NOT_SCORED = "images are not scored: their operator's signature is all that vouches for them"


async def test_openais_client_has_images_made(gallery: Gallery) -> None:
    answer = await gallery.openai.images.generate(model=MODEL, prompt="An otter", n=2, size="64x96")  # type: ignore[call-overload]
    assert (answer.code, answer.message, len(answer.data)) == (0, "success", 2)
    facts = answer.aos
    for entry, record in zip(answer.data, facts["images"], strict=True):
        assert (entry.b64_json, entry.revised_prompt) == ("", "An otter")
        assert entry.url == f"{gallery.base}/v1/images/{record['sha256']}"
        image = await gallery.read(entry.url)
        assert (image.status_code, image.headers["content-type"]) == (200, "image/png")
        assert hashlib.sha256(image.content).hexdigest() == record["sha256"]
        assert (len(image.content), image.headers["etag"]) == (record["size"], f'"{record["sha256"]}"')
        header = read_header(image.content)
        assert (header.width, header.height) == (record["width"], record["height"]) == (64, 96)
    assert gallery.painter.requests == [
        {"model": "sd-fake", "prompt": "An otter", "n": 2, "size": "64x96", "response_format": "b64_json"}
    ]
    assert gallery.painter.keys == [f"Bearer {KEY}"]


async def test_an_answer_says_that_it_is_not_scored_wherever_it_shows(gallery: Gallery) -> None:
    answer = await gallery.post("generations", n=1)
    facts = answer.json()["aos"]
    job_id = facts["job_id"]
    assert (facts["verdict"], facts["reason"], facts["level"]) == ("inconclusive", NOT_SCORED, "text")
    assert facts["operator"] == gallery.signer.address
    assert (answer.headers["x-aos-job-id"], answer.headers["x-aos-evidence"]) == (job_id, facts["evidence"])
    detail = await gallery.network.finished(job_id)
    assert detail["status"] == "completed"
    assert detail["job"]["image"] == {"n": 1, "width": 64, "height": 64}
    [row] = await gallery.network.results(job_id)
    assert json.loads(row["result"]) == {"images": facts["images"]}
    assert (row["verdict"], row["reason"]) == ("inconclusive", NOT_SCORED)
    assert (row["evidence"], row["backend"]) == ("text", "images")
    assert detail["verdict"]["outcome"] == "inconclusive"
    checks = {check.id: check for check in await gallery.network.checks(job_id)}
    assert [check for check in checks.values() if check.status == "FAIL"] == []
    assert checks["AOS-RECORD-1"].status == "PASS"
    assert checks["AOS-RESULT-1"].status == "PASS"
    assert checks["AOS-MATCH-1"].status == "SKIP"


async def test_the_auditor_s_command_works_on_a_job_for_images(gallery: Gallery) -> None:
    job_id = (await gallery.post("generations", n=2)).json()["aos"]["job_id"]
    await gallery.network.finished(job_id)
    audit = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("aos-audit"), job_id, "--dispatcher", gallery.base),
        *("--dispatcher-address", gallery.network.signer.address),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "300"},
    )
    said = (await audit.communicate())[0].decode()
    assert audit.returncode == 0, said
    assert " 0 failed" in said
    assert re.search(r"PASS +AOS-RECORD-1", said)
    assert re.search(r"SKIP +AOS-MATCH-1", said)


async def test_images_come_in_the_answer_when_asked_for_so(gallery: Gallery) -> None:
    answer = await gallery.openai.images.generate(
        model=MODEL,
        prompt="An otter",
        n=2,
        size="64x64",  # type: ignore[arg-type]
        response_format="b64_json",
    )
    assert answer.data is not None
    for entry, record in zip(answer.data, answer.aos["images"], strict=True):  # type: ignore[attr-defined]
        assert entry.url == ""
        assert hashlib.sha256(base64.b64decode(entry.b64_json or "")).hexdigest() == record["sha256"]


async def test_a_large_image_travels_in_pieces(gallery: Gallery) -> None:
    """Larger than a frame, a row of the database, and what is sent of HTTP at a time."""
    data = large_png(64, 64, 2_500_001)
    gallery.painter.bend = lambda said: said | {"data": [{"b64_json": base64.b64encode(data).decode()}]}
    answer = await gallery.post("generations")
    url = answer.json()["data"][0]["url"]
    assert (await gallery.read(url)).content == data
    inline = await gallery.post("generations", response_format="b64_json")
    assert base64.b64decode(inline.json()["data"][0]["b64_json"]) == data


async def test_openais_client_has_an_image_edited(gallery: Gallery) -> None:
    source = png(80, 40)
    answer = await gallery.openai.images.edit(
        model=MODEL,
        image=("otter.png", source, "image/png"),
        prompt="with a beret",
        n=2,
        size="64x64",  # type: ignore[arg-type]
        response_format="b64_json",
    )
    assert answer.data is not None
    assert len(answer.data) == 2
    assert gallery.painter.uploads == [source]
    detail = await gallery.network.finished(answer.aos["job_id"])  # type: ignore[attr-defined]
    assert detail["job"]["image"]["source"] == hashlib.sha256(source).hexdigest()
    assert [check for check in await gallery.network.checks(detail["id"]) if check.status == "FAIL"] == []


async def test_an_image_is_edited_that_a_url_names(gallery: Gallery) -> None:
    source = png(30, 50)
    gallery.painter.made["otter"] = source
    there = f"{gallery.painter.url}/made/otter"
    once_more = f"{gallery.painter.url}/made/again?to={there}"
    for url in (there, once_more):
        answer = await gallery.post("edits", image=url)
        assert answer.status_code == 200, answer.text
    assert gallery.painter.uploads == [source, source]


async def test_an_image_of_an_answer_can_be_edited_by_its_url(gallery: Gallery) -> None:
    """Although a dispatcher fetches nothing from addresses such as its own."""
    made = (await gallery.post("generations")).json()["data"][0]["url"]
    answer = await gallery.post("edits", image=made, prompt="with a beret")
    assert answer.status_code == 200, answer.text
    assert [hashlib.sha256(each).hexdigest() for each in gallery.painter.uploads] == [made.rpartition("/")[2]]
    gone = f"{gallery.base}/v1/images/{'1' * 64}"
    assert (await gallery.post("edits", image=gone)).status_code == 400


async def test_a_server_that_takes_no_forms_gets_the_image_in_json(gallery: Gallery) -> None:
    gallery.painter.takes_forms = False
    source = png(30, 50)
    for _ in range(2):
        answer = await gallery.network.client.post(
            "/v1/images/edits",
            data={"model": MODEL, "prompt": "x", "size": "64x64"},
            files={"image": source},
            headers=gallery.bearer,
        )
        assert answer.status_code == 200, answer.text
    assert gallery.painter.uploads == [source, source]


async def test_curl_in_the_shape_of_the_dbc_documents(gallery: Gallery) -> None:
    """The document's own request, which gives size, width and height, here smaller than its 1024."""
    asked = {
        "model": MODEL,
        "prompt": "A cute baby sea otter",
        "n": 1,
        "size": "128x128",
        "width": 96,
        "height": 64,
    }
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", f"{gallery.base}/v1/images/generations", "-H", "Content-Type: application/json"),
        *("-H", f"Authorization: Bearer {gallery.network.token}", "-d", json.dumps(asked)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await curl.communicate()
    said = json.loads(out)
    assert (said["code"], said["message"]) == (0, "success")
    assert said["data"][0].keys() == {"b64_json", "url", "revised_prompt"}
    image = await gallery.read(said["data"][0]["url"])
    header = read_header(image.content)
    assert (header.width, header.height) == (96, 64)


async def test_a_private_project_s_images_need_its_token(gallery: Gallery) -> None:
    network = gallery.network
    private = await network.project("den", private=True)
    made = await gallery.post("generations", prompt="a secret")
    url = made.json()["data"][0]["url"]
    other = await network.project("other")
    statuses = [
        (await gallery.read(url, token=token)).status_code for token in (private, None, other, "aos_nobody")
    ]
    assert statuses == [200, 404, 404, 401]


async def test_an_image_to_be_edited_is_for_its_project_alone(gallery: Gallery) -> None:
    source = png(20, 20)
    files = {"image": source}
    form = {"model": MODEL, "prompt": "x", "size": "64x64"}
    done = await gallery.network.client.post(
        "/v1/images/edits", data=form, files=files, headers=gallery.bearer
    )
    assert done.status_code == 200, done.text
    url = f"{gallery.base}/v1/images/{hashlib.sha256(source).hexdigest()}"
    assert (await gallery.read(url)).status_code == 404
    assert (await gallery.read(url, token=gallery.network.token)).content == source


BROKEN: dict[str, tuple[Any, int]] = {
    "made 1 images, and 2 were asked for": (lambda said: said | {"data": said["data"][:1]}, 200),
    "no PNG, JPEG or WebP": (lambda said: said | {"data": [{"b64_json": "AAAA"}] * 2}, 200),
    "neither b64_json nor url": (lambda said: said | {"data": [{"b64_json": ""}] * 2}, 200),
    "no list of images": (lambda said: said | {"data": "none"}, 200),
    "out of paint": (lambda said: {"code": 7, "message": "out of paint"}, 200),
    "not that prompt": (lambda said: {"error": {"message": "not that prompt"}}, 400),
}


async def test_what_a_server_cannot_make_fails_the_job_and_says_why(gallery: Gallery) -> None:
    for why, (bend, status) in BROKEN.items():
        gallery.painter.bend, gallery.painter.status = bend, status
        answer = await gallery.post("generations", n=2)
        assert answer.status_code == 502
        assert why in answer.json()["message"]
        assert answer.json()["error"]["code"] == "job_failed"
        detail = await gallery.network.finished(answer.json()["job_id"])
        assert detail["status"] == "failed"


async def test_an_image_of_another_size_is_no_answer(gallery: Gallery) -> None:
    gallery.painter.size = (64, 65)
    answer = await gallery.post("generations")
    assert answer.status_code == 502
    assert "made an image of 64 x 65, and 64 x 64 was asked for" in answer.json()["message"]


async def test_images_at_addresses_of_the_same_server_are_taken_and_no_others(gallery: Gallery) -> None:
    gallery.painter.by_url = True
    assert (await gallery.post("generations")).status_code == 200
    async with FakeImageServer().serving() as elsewhere:
        gallery.painter.host = elsewhere.url
        answer = await gallery.post("generations")
    assert answer.status_code == 502
    assert "elsewhere" in answer.json()["message"]


async def test_who_leaves_cancels_the_job(gallery: Gallery) -> None:
    gallery.painter.go.clear()
    async with AsyncOpenAI(base_url=f"{gallery.base}/v1", api_key=gallery.network.token) as client:
        asking = asyncio.create_task(client.images.generate(model=MODEL, prompt="x"))
        await gallery.painter.asked.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    [task] = gallery.store.tasks
    detail = await gallery.network.finished(task.job_id)
    assert (detail["status"], detail["reason"]) == (
        "cancelled",
        "its client left before the answer was there",
    )


async def test_what_is_not_supported_is_refused_by_name(gallery: Gallery) -> None:
    refused = {"width": {"width": 64}, "mask": {"mask": "https://x"}, "sampler": {"sampler": "x"}}
    for name, more in refused.items():
        answer = await gallery.post("generations", **more)
        assert answer.status_code == 400
        assert name in answer.json()["error"]["message"]
    assert gallery.painter.requests == []


async def test_models_are_listed_with_where_they_are_asked_and_for_nothing_else(gallery: Gallery) -> None:
    listed = await gallery.network.client.get("/v1/models", headers=gallery.bearer)
    [model] = listed.json()["data"]
    assert (model["id"], model["kinds"], model["evidence"]) == (MODEL, [1, 2], "text")
    assert model["url"] == f"{gallery.base}/v1/images/generations"
    with pytest.raises(APIStatusError, match="makes images"):
        await gallery.openai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


async def test_a_model_that_makes_text_makes_no_images(gallery: Gallery) -> None:
    operator = await gallery.network.operator()
    answer = await gallery.post("generations", model=operator.models[0].name)
    assert answer.status_code == 400
    assert "makes no images" in answer.json()["message"]


async def test_forms_are_bounded_and_have_one_image(gallery: Gallery) -> None:
    fields = {"model": MODEL, "prompt": "x"}
    client: httpx.AsyncClient = gallery.network.client

    async def send(data: dict[str, Any], files: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        return await client.post(
            "/v1/images/edits", data=data, files=files, headers=gallery.bearer | (headers or {})
        )

    picture = png(10, 10)
    two = [("image", ("a.png", picture)), ("image", ("b.png", picture))]
    answers = {
        "two images": (await send(fields, two), 400),
        "a mask": (await send(fields, {"mask": picture}), 400),
        "no image": (await send(fields | {"image": "otter"}, {"x": (None, "y")}), 400),
        "an empty image": (await send(fields, {"image": b""}), 400),
        "no picture": (await send(fields, {"image": b"GIF89a"}), 400),
        "a picture larger than is taken": (
            await send(fields, {"image": large_png(10, 10, (8 << 20) + 1)}),
            413,
        ),
        "a wide picture": (await send(fields, {"image": _header_only(9000, 10)}), 413),
    }
    assert {name: answer.status_code for name, (answer, _) in answers.items()} == {
        name: status for name, (_, status) in answers.items()
    }
    broken = await client.post(
        "/v1/images/edits",
        content=b"--x\r\nnonsense\r\n\r\n\r\n--y",
        headers=gallery.bearer | {"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert broken.status_code == 400
    nameless = await client.post(
        "/v1/images/edits", content=b"", headers=gallery.bearer | {"Content-Type": "multipart/form-data"}
    )
    assert nameless.status_code == 400
    assert gallery.painter.requests == []


def _header_only(width: int, height: int) -> bytes:
    from support.pictures import jpeg

    return jpeg(width, height)


async def test_a_form_without_an_end_is_not_read_on(gallery: Gallery) -> None:
    """Its length is not announced: it is refused while it comes, as soon as no image is as long."""
    host, _, port = gallery.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/images/edits HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {gallery.network.token}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'

    async def send() -> None:
        writer.write(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        while True:
            writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            await writer.drain()

    sending = asyncio.create_task(send())
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.transport.abort()


async def test_nobody_without_a_token_has_anything_read(gallery: Gallery) -> None:
    client = gallery.network.client
    for path in ("generations", "edits"):
        answer = await client.post(f"/v1/images/{path}", json={"model": MODEL, "prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
