"""Frames, against texts and signatures that the code under test had no hand in.

The signed text is always written down here, or built here token by token, and signed by eth-account.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import frames
from aos_protocol.canonical import JsonObject
from aos_protocol.errors import InvalidFrame, InvalidSignature, ProtocolError
from aos_protocol.frames import open_frame, open_object, param_text, seal_object, seal_reply, seal_request
from aos_protocol.identity import Signer

SIGNER = Signer(b"\x07" * 32)
OTHER = Signer(b"\x08" * 32)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
HASH, SIGNATURE = "@hash@", "@signature@"


def sealed(template: str, signed: str, secret: bytes = SIGNER.secret) -> str:
    """Put hash and signature of the `signed` text where the template names them."""
    message = signed.encode()
    signature = bytes(Account.sign_message(encode_defunct(message), secret).signature).hex()
    return template.replace(HASH, keccak(message).hex()).replace(SIGNATURE, signature)


def blank(template: str) -> str:
    return template.replace(HASH, "").replace(SIGNATURE, "")


def request(params: str = "[{}]", **changes: str) -> str:
    """A compact request in the published key order, unsealed; `changes` are JSON texts."""
    members = {
        "id": '"1"',
        "method": '"connect"',
        "params": params,
        "result": "null",
        "address": f'"{SIGNER.address}"',
        "hash": f'"{HASH}"',
        "signature": f'"{SIGNATURE}"',
    } | changes
    return "{" + ",".join(f'"{key}":{value}' for key, value in members.items()) + "}"


def good(template: str) -> str:
    return sealed(template, blank(template))


SEAL_FIRST = (
    '{"signature":"@signature@","hash":"@hash@","address":"@address@","result":null,"params":null,'
    '"method":"ping","id":""}'
).replace("@address@", SIGNER.address)
SEAL_IN_THE_MIDDLE = (
    '{"id":"1","hash":"@hash@","method":"m","params":[{"hash":"x","signature":"y"}],'
    '"signature":"@signature@","result":null,"address":"@address@"}'
).replace("@address@", SIGNER.address)


@pytest.mark.parametrize(
    "params",
    [
        "[]",
        '[{"temperature":1.0,"top_p":0.5,"max_tokens":1024}]',
        '[{"a":0.50,"b":1e16,"c":1E+16,"d":-0.0,"e":-0,"f":1.10e-7,"g":100000000000000000000000000}]',
        '[{"z":{"y":{"x":[1,[2.00,{"w":null}]]}},"a":true}]',
        '[{"text":"é 漢字 \U0001f600 \u007f\u2028","ключ":"значение"}]',
        r'[{"text":"a\"b\\c\n\t\r\b\f\u0000\u001f/"}]',
        '[{"hash":"kept","signature":"kept"}]',
        '[{"clock":{"2":"1","10":"1","1":"2"}},{"b":1,"a":2}]',
    ],
)
def test_compact_frames_of_others_are_opened(params: str) -> None:
    text = good(request(params))
    frame = open_frame(text)
    assert frame.params == json.loads(params)
    assert (frame.id, frame.method, frame.result, frame.address) == ("1", "connect", None, SIGNER.address)
    assert frame.text == text
    assert open_frame(text.encode()) == frame


@pytest.mark.parametrize(
    ("template", "signed"),
    [
        pytest.param(
            request('[ {"t" : 1.0 ,\t"p":\r\n0.50} ]'), request('[{"t":1.0,"p":0.50}]'), id="white space"
        ),
        pytest.param(
            request('[{"a b":" c  d "}]') + " \n", request('[{"a b":" c  d "}]'), id="white space in strings"
        ),
        pytest.param(
            request(r'[{"\u0061":"\u00e9\/\u000a\ud83d\ude00"}]'),
            request('[{"a":"é/\\n\U0001f600"}]'),
            id="escapes",
        ),
        pytest.param(SEAL_FIRST, SEAL_FIRST, id="seal first"),
        pytest.param(SEAL_IN_THE_MIDDLE, SEAL_IN_THE_MIDDLE, id="seal in the middle"),
        pytest.param(request().replace('"hash"', r'"h\u0061sh"'), request(), id="escaped key of the seal"),
        pytest.param(
            request('[{"a":1e16,"b":1.50}]').replace('":', '": '), request('[{"a":1e16,"b":1.50}]'), id="all"
        ),
    ],
)
def test_any_spelling_is_brought_to_the_signed_text(template: str, signed: str) -> None:
    frame = open_frame(sealed(template, blank(signed)))
    assert frame.address == SIGNER.address
    assert frame.text == sealed(template, blank(signed))


def test_signing_the_text_with_its_white_space_is_not_the_rule() -> None:
    template = request('[{"a": 1}]')
    with pytest.raises(InvalidFrame, match="hash is not that of the text"):
        open_frame(good(template))


def test_signing_a_reprinted_number_is_not_the_rule() -> None:
    with pytest.raises(InvalidFrame, match="hash is not that of the text"):
        open_frame(sealed(request('[{"a":1.0}]'), blank(request('[{"a":1}]'))))


@dataclass(frozen=True)
class Spelling:
    """One JSON value as some sender might write it, and as the rule signs it."""

    wire: str
    signed: str


SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
NUMBERS = st.one_of(
    st.integers().map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
).map(lambda number: Spelling(number, number))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
WORDS = st.sampled_from(["null", "true", "false"]).map(lambda word: Spelling(word, word))


@st.composite
def strings(draw: st.DrawFn, content: st.SearchStrategy[str] = TEXTS) -> Spelling:
    text = draw(content)
    signed = json.dumps(text, ensure_ascii=False)
    return Spelling(
        draw(st.sampled_from([signed, signed, json.dumps(text), signed.replace("/", "\\/")])), signed
    )


@st.composite
def arrays(draw: st.DrawFn, items: st.SearchStrategy[Spelling]) -> Spelling:
    values = draw(st.lists(items, max_size=3))
    wire = ",".join(draw(SPACE) + value.wire + draw(SPACE) for value in values)
    return Spelling(f"[{wire or draw(SPACE)}]", f"[{','.join(value.signed for value in values)}]")


@st.composite
def objects(draw: st.DrawFn, items: st.SearchStrategy[Spelling]) -> Spelling:
    keys = draw(
        st.lists(st.text(max_size=3) | st.sampled_from(["hash", "signature"]), unique=True, max_size=3)
    )
    return members(draw, [(draw(strings(st.just(key))), draw(items)) for key in keys])


def members(draw: st.DrawFn, pairs: list[tuple[Spelling, Spelling]]) -> Spelling:
    wire = ",".join(
        f"{draw(SPACE)}{key.wire}{draw(SPACE)}:{draw(SPACE)}{value.wire}{draw(SPACE)}" for key, value in pairs
    )
    return Spelling(f"{{{wire}}}", f"{{{','.join(f'{key.signed}:{value.signed}' for key, value in pairs)}}}")


JSON = st.recursive(NUMBERS | WORDS | strings(), lambda inner: arrays(inner) | objects(inner), max_leaves=8)


@st.composite
def spelled_frames(draw: st.DrawFn) -> tuple[str, str]:
    """A request in any key order and spelling, with the text to sign."""
    parameter = draw(objects(JSON))
    pairs = [
        ("id", draw(strings())),
        ("method", draw(strings())),
        ("params", Spelling(f"[{parameter.wire}]", f"[{parameter.signed}]")),
        ("result", Spelling("null", "null")),
        ("address", Spelling(f'"{SIGNER.address}"', f'"{SIGNER.address}"')),
        ("hash", Spelling(f'"{HASH}"', '""')),
        ("signature", Spelling(f'"{SIGNATURE}"', '""')),
    ]
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    frame = members(draw, [(draw(strings(st.just(key))), value) for key, value in pairs])
    return frame.wire, frame.signed


@given(spelled_frames())
def test_every_spelling_opens_and_both_paths_agree(spelled: tuple[str, str]) -> None:
    wire, signed = spelled
    text = sealed(wire, signed)
    frame = open_frame(text)
    assert frame.address == SIGNER.address
    body = json.loads(text)
    assert frames._signed_text(body, text) == frames._signed_text_exact(text) == signed
    assert json.loads(param_text(frame)) == frame.params[0]


@given(spelled_frames(), st.sampled_from([" ", "0", ".", '"', "\\", "e", "é", ","]), st.integers(0, 10_000))
def test_no_character_of_a_frame_can_be_changed(spelled: tuple[str, str], other: str, place: int) -> None:
    """Unless the signed text stays the same, as with white space."""
    text = sealed(*spelled)
    at = place % len(text)
    changed = text[:at] + other + text[at + 1 :]
    try:
        frame = open_frame(changed)
    except ProtocolError:
        return
    assert frame.address == SIGNER.address
    assert frames._signed_text_exact(changed) == spelled[1]


PARAMS = st.lists(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=4),
        st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8")),
        max_size=3,
    ),
    max_size=3,
)


@given(PARAMS)
def test_own_frames_open_as_they_were_sealed(params: list[Any]) -> None:
    asked = seal_request(SIGNER, "7", "dispatch_job", params)
    assert open_frame(asked.text) == asked
    answered = seal_reply(OTHER, "7", {"code": 200, "params": params})
    assert open_frame(answered.text.encode()) == answered


def test_own_frames_have_the_published_shape() -> None:
    asked = seal_request(SIGNER, "7", "connect", [{"top_p": 1.0}])
    assert list(json.loads(asked.text)) == [
        "id",
        "method",
        "params",
        "result",
        "address",
        "hash",
        "signature",
    ]
    assert asked.text == good(request('[{"top_p":1.0}]', id='"7"'))
    answered = seal_reply(SIGNER, "7", {"code": 200, "message": "success"})
    assert list(json.loads(answered.text)) == ["id", "result", "address", "hash", "signature"]
    assert (answered.method, answered.params) == (None, [])


def test_replies_of_others_are_opened_with_and_without_the_keys_of_requests() -> None:
    short = f'{{"id":"1","result":{{"code":200}},"address":"{SIGNER.address}","hash":"{HASH}","signature":"{SIGNATURE}"}}'
    long = request("null", method="null", result='{"code":200}')
    for template in (short, long):
        frame = open_frame(good(template))
        assert (frame.method, frame.params, frame.result) == (None, [], {"code": 200})


def test_an_address_in_lower_case_is_taken_and_given_in_eip_55() -> None:
    text = good(request(address=f'"{SIGNER.address.lower()}"'))
    assert open_frame(text).address == SIGNER.address


def test_the_named_address_must_be_the_signer() -> None:
    text = good(request(address=f'"{OTHER.address}"'))
    with pytest.raises(InvalidSignature, match=f"names {OTHER.address} but {SIGNER.address} signed"):
        open_frame(text)


def high_s(text: str) -> str:
    old = json.loads(text)["signature"]
    raw = bytes.fromhex(old)
    s = ORDER - int.from_bytes(raw[32:64], "big")
    return text.replace(old, (raw[:32] + s.to_bytes(32, "big") + bytes((55 - raw[64],))).hex())


def with_signature(signature: str) -> str:
    text = good(request())
    return text.replace(json.loads(text)["signature"], signature)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (high_s(good(request())), "upper half"),
        (with_signature(""), "130 lower-case hex digits"),
        (with_signature("00"), "130 lower-case hex digits"),
        (with_signature("0x" + "11" * 65), "130 lower-case hex digits"),
        (with_signature("AB" * 65), "130 lower-case hex digits"),
        (with_signature("00" * 65), "v is 0"),
        (with_signature("00" * 64 + "1b"), "between 1 and the group order"),
        (with_signature("11" * 64 + "1b"), "no public key"),
        (with_signature(OTHER.sign_message(b"another").hex()), f"names {SIGNER.address} but 0x"),
    ],
)
def test_bad_signatures_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidSignature, match=reason):
        open_frame(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not strict JSON"),
        ("null", "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "misses or exceeds its keys by address, hash, id, result, signature"),
        (b"\xff", "not UTF-8"),
        ("\ud800", "not UTF-8"),
        (good(request('[{"a":"\\ud800"}]')), "lone surrogate"),
        (good(request()) + "{}", "Extra data"),
        (good(request()) + "\0", "Extra data"),
        (good(request('[{"a":1,"a":1}]')), "duplicate key 'a'"),
        (good(request('[{"a":NaN}]')), "NaN"),
        (good(request('[{"a":1e999}]')), "double precision"),
        (good(request('[{"a":' + "[" * 70 + "]" * 70 + "}]")), "deeper than 64"),
        ("[" * 900_000, "deeper than 64"),
        (good(request())[:-1] + ',"signature":""}', "duplicate key 'signature'"),
        (good(request(extra="1")), "by extra"),
        (good(request().replace('"id":"1",', "")), "by id"),
        (good(request().replace('"method":"connect",', "")), "by params"),
        (good(request(id="1")), "id of the frame must be a string"),
        (good(request(id="null")), "id of the frame must be a string"),
        (good(request(address="null")), "address of the frame must be a string"),
        (good(request(address='"0x12"')), "address of the frame: '0x12' is no address"),
        (good(request(hash="null")), "hash of the frame must be a string"),
        (good(request(signature="1")), "signature of the frame must be a string"),
        (good(request("{}")), "list of objects"),
        (good(request('["text"]')), "list of objects"),
        (good(request("[null]")), "list of objects"),
        (good(request("1")), "list of objects"),
        (good(request(method="null")), "either a method"),
        (good(request(method="1")), "either a method"),
        (good(request(result="{}")), "either a method"),
        (good(request(result="false")), "either a method"),
        (good(request(method="null", result="[]")), "either a method"),
        (good(request(method="null", result="{}")), "either a method"),
        (good(request(hash='""')), "hash is not that of the text"),
        (good(request(hash=f'"{"0" * 64}"')), "hash is not that of the text"),
        (good(request()).replace("connect", "Connect"), "hash is not that of the text"),
    ],
    ids=lambda case: repr(case)[:40],
)
def test_malformed_frames_are_refused_with_the_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(InvalidFrame, match=reason):
        open_frame(text)


def test_the_hash_must_be_in_lower_case() -> None:
    text = good(request())
    claimed = json.loads(text)["hash"]
    with pytest.raises(InvalidFrame, match="hash is not that of the text"):
        open_frame(text.replace(claimed, claimed.upper()))


def test_size_is_counted_in_bytes_before_anything_is_read() -> None:
    frame = seal_request(SIGNER, "1", "m", [{"text": "é" * 100}])
    size = len(frame.text.encode())
    assert size == len(frame.text) + 100
    assert open_frame(frame.text, max_bytes=size) == frame
    for text in (frame.text, frame.text.encode(), b"\xff" * size):
        with pytest.raises(InvalidFrame, match=f"has {size} bytes, at most {size - 1} are taken"):
            open_frame(text, max_bytes=size - 1)
    with pytest.raises(InvalidFrame, match="at most 1048576"):
        open_frame(b" " * ((1 << 20) + 1))


@given(
    st.text(max_size=60)
    | st.binary(max_size=60)
    | st.builds(bytes.join, st.just(b"\0"), st.just([b"{}", b"{}"]))
)
def test_no_input_raises_anything_else(text: str | bytes) -> None:
    with pytest.raises(InvalidFrame):
        open_frame(text)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", b"bytes", {1, 2}, pytest.param(object(), id="object")],
    ids=repr,
)
def test_what_is_not_json_is_not_sealed(value: Any) -> None:
    with pytest.raises(InvalidFrame, match="cannot be sent as JSON"):
        seal_request(SIGNER, "1", "m", [{"a": value}])
    with pytest.raises(InvalidFrame, match="cannot be sent as JSON"):
        seal_reply(SIGNER, "1", {"a": value})
    with pytest.raises(InvalidFrame, match="cannot be sent as JSON"):
        seal_object(SIGNER, {"a": value})


CONNECT: JsonObject = {
    "operator": SIGNER.address,
    "workers": ["opml"],
    "load": 1.0,
    "hash": "",
    "signature": "",
}


def test_an_object_is_sealed_by_the_same_rule() -> None:
    made = seal_object(SIGNER, dict(CONNECT))
    template = json.dumps({**CONNECT, "hash": HASH, "signature": SIGNATURE}, separators=(",", ":"))
    assert json.dumps(made, separators=(",", ":")) == good(template)
    assert open_object(good(template)) == (made, SIGNER.address)
    assert CONNECT["hash"] == ""


def test_a_seal_that_is_missing_comes_last_and_one_that_is_there_keeps_its_place() -> None:
    assert list(seal_object(SIGNER, {"a": 1})) == ["a", "hash", "signature"]
    assert list(seal_object(SIGNER, {"signature": "old", "a": 1, "hash": "old"})) == [
        "signature",
        "a",
        "hash",
    ]
    resealed = seal_object(SIGNER, seal_object(OTHER, {"a": 1}))
    assert resealed == seal_object(SIGNER, {"a": 1})


def test_a_sealed_parameter_is_opened_from_its_frame_in_the_senders_digits() -> None:
    inner = '{"signature":"@signature@", "load":0.50,"big":1e16,"name":"\\u00e9", "hash":"@hash@"}'
    inner = sealed(inner, '{"signature":"","load":0.50,"big":1e16,"name":"é","hash":""}', OTHER.secret)
    compact = inner.replace(" ", "").replace("\\u00e9", "é")
    text = sealed(request(f'[{{"first":1}}, {inner}]'), blank(request(f'[{{"first":1}},{compact}]')))
    frame = open_frame(text)
    assert param_text(frame, 1) == compact
    assert param_text(frame) == '{"first":1}'
    assert open_object(param_text(frame, 1)) == (frame.params[1], OTHER.address)


def test_there_is_no_text_of_a_parameter_that_is_not_there() -> None:
    asked, answered = seal_request(SIGNER, "1", "m", [{}]), seal_reply(SIGNER, "1", {})
    for frame, index in ((asked, 1), (asked, -1), (answered, 0)):
        with pytest.raises(InvalidFrame, match=f"no parameter {index}"):
            param_text(frame, index)


@pytest.mark.parametrize(
    ("text", "refusal", "reason"),
    [
        ("{}", InvalidFrame, "hash and signature must be there"),
        ('{"hash":"","signature":null}', InvalidFrame, "hash and signature must be there"),
        ('{"hash":"","signature":""}', InvalidSignature, "130 lower-case hex digits"),
        ('{"hash":"","signature":"' + "11" * 65 + '"}', InvalidFrame, "hash is not that of the text"),
        ("[]", InvalidFrame, "no JSON object"),
        ('{"a":1,"a":1}', InvalidFrame, "duplicate key"),
    ],
)
def test_unsealed_objects_are_refused(text: str, refusal: type[ProtocolError], reason: str) -> None:
    with pytest.raises(refusal, match=reason):
        open_object(text)


def test_a_changed_object_is_refused() -> None:
    text = json.dumps(seal_object(SIGNER, dict(CONNECT)))
    assert open_object(text)[1] == SIGNER.address
    with pytest.raises(InvalidFrame, match="hash is not that of the text"):
        open_object(text.replace("opml", "tee"))


def test_a_member_that_only_looks_like_the_seal_is_not_blanked() -> None:
    r"""The key `a\"hash` ends like `hash`, with the very hash and signature after it."""
    template = '{"hash":"@hash@","a\\"hash":"@hash@","signature":"@signature@"}'
    signed = '{"hash":"","a\\"hash":"","signature":""}'
    with pytest.raises(InvalidFrame, match="hash is not that of the text"):
        open_object(sealed(template, signed))
