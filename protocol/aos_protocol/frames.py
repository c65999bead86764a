"""Signed frames of the AOS wire: the envelope of every message on `/ws`.

What is signed is the frame's own compact text with its `hash` and `signature` members blank: keys in
the sender's order, numbers in the sender's digits, strings in unescaped UTF-8. A parsed float is never
printed again, because `1.0` of one program is `1` of another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from eth_hash.auto import keccak

from aos_protocol.canonical import JsonObject, JsonValue, parse
from aos_protocol.errors import InvalidAddress, InvalidFrame, InvalidSignature, NotCanonical
from aos_protocol.identity import Signer, checksum_address, parse_signature, recover_message

_REQUEST_KEYS = {"id", "method", "params", "result", "address", "hash", "signature"}
_REPLY_KEYS = _REQUEST_KEYS - {"method", "params"}
_BLANK = {"hash": "", "signature": ""}
_BLANK_TAIL = ',"hash":"","signature":""}'


@dataclass(frozen=True)
class Frame:
    """A frame whose form, hash and signature are good.

    A request has a `method` and its `params` (objects); a reply has a `result`. `address` is the
    signer in EIP-55 form, `text` exactly what was received or is to be sent.
    """

    id: str
    method: str | None
    params: list[JsonObject]
    result: JsonObject | None
    address: str
    hash: str
    signature: str
    text: str


def seal_request(signer: Signer, id: str, method: str, params: list[JsonObject]) -> Frame:  # noqa: A002
    """Make and sign a request. Raises InvalidFrame when a parameter is not JSON."""
    body = {"id": id, "method": method, "params": params, "result": None, "address": signer.address}
    return _seal_frame(signer, body)


def seal_reply(signer: Signer, id: str, result: JsonObject) -> Frame:  # noqa: A002
    """Make and sign the reply to the request of this id. Raises InvalidFrame when the result is not JSON."""
    return _seal_frame(signer, {"id": id, "result": result, "address": signer.address})


def open_frame(text: str | bytes, *, max_bytes: int = 1 << 20) -> Frame:
    """Read a frame and check size, UTF-8, strict JSON, keys, types, hash, signature and signer.

    Raises InvalidFrame or InvalidSignature, saying which check failed; nothing is returned unchecked.
    """
    source = _decode(text, max_bytes)
    body = _parse_object(source)
    frame = _envelope(body, source)
    signer = _check_seal(body, source)
    if signer != frame.address:
        raise InvalidSignature(
            f"the frame names {frame.address} but {signer} signed it; sign with the named key"
        )
    return frame


def seal_object(signer: Signer, obj: JsonObject) -> JsonObject:
    """Give a copy of an object with its own `hash` and `signature` filled in by the frame rule.

    Members that are missing are added last. Raises InvalidFrame when the object is not JSON.
    """
    blank = {**obj, **_BLANK}
    message = _encode(blank)
    return {**blank, "hash": keccak(message).hex(), "signature": signer.sign_message(message).hex()}


def open_object(text: str | bytes, *, max_bytes: int = 1 << 20) -> tuple[JsonObject, str]:
    """Read an object that carries its own `hash` and `signature`: the object and its signer's address.

    `text` must hold the sender's own digits: for a parameter of a frame take `param_text`.
    Raises InvalidFrame or InvalidSignature; whether the signer is the right one is for the caller.
    """
    source = _decode(text, max_bytes)
    body = _parse_object(source)
    return body, _check_seal(body, source)


def param_text(frame: Frame, index: int = 0) -> str:
    """The compact text of one parameter in its sender's own digits. Raises InvalidFrame if there is none."""
    members = dict(_read_exact(frame.text))
    params = members.get("params")
    if not isinstance(params, list) or not 0 <= index < len(params):
        raise InvalidFrame(f"the frame has no parameter {index}; send it in params")
    return _write_exact(params[index])


def _seal_frame(signer: Signer, body: dict[str, Any]) -> Frame:
    message = _encode({**body, **_BLANK})
    seal = {"hash": keccak(message).hex(), "signature": signer.sign_message(message).hex()}
    text = message.decode().removesuffix(_BLANK_TAIL) + "," + _compact(seal)[1:]
    return Frame(
        id=body["id"],
        method=body.get("method"),
        params=body.get("params", []),
        result=body["result"],
        address=body["address"],
        text=text,
        **seal,
    )


def _decode(text: str | bytes, max_bytes: int) -> str:
    try:
        raw = text.encode() if isinstance(text, str) else text
        if len(raw) > max_bytes:
            raise InvalidFrame(f"the frame has {len(raw)} bytes, at most {max_bytes} are taken; send less")
        return text if isinstance(text, str) else raw.decode()
    except UnicodeError as error:
        raise InvalidFrame("the frame is not UTF-8; send text frames in UTF-8") from error


def _parse_object(source: str) -> JsonObject:
    try:
        body = parse(source)
    except NotCanonical as error:
        raise InvalidFrame(f"the frame is not strict JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidFrame("the frame is no JSON object; send one object")
    return body


def _envelope(body: JsonObject, source: str) -> Frame:
    if body.keys() != _REQUEST_KEYS and body.keys() != _REPLY_KEYS:
        wrong = sorted(body.keys() ^ (_REQUEST_KEYS if "method" in body else _REPLY_KEYS))
        raise InvalidFrame(
            f"the frame misses or exceeds its keys by {', '.join(wrong):.200}; send exactly them"
        )
    for key in ("id", "address", "hash", "signature"):
        if not isinstance(body[key], str):
            raise InvalidFrame(f"{key} of the frame must be a string")
    method, params, result = body.get("method"), body.get("params"), body["result"]
    params = [] if params is None else params
    if not isinstance(params, list) or not all(isinstance(param, dict) for param in params):
        raise InvalidFrame("params of the frame must be a list of objects")
    is_request = isinstance(method, str) and result is None
    is_reply = method is None and isinstance(result, dict) and not params
    if not is_request and not is_reply:
        raise InvalidFrame("the frame must have either a method (string) or a result (object)")
    try:
        address = checksum_address(cast("str", body["address"]))
    except InvalidAddress as error:
        raise InvalidFrame(f"address of the frame: {error}") from error
    return Frame(
        id=cast("str", body["id"]),
        method=method if isinstance(method, str) else None,
        params=cast("list[JsonObject]", params),
        result=result if isinstance(result, dict) else None,
        address=address,
        hash=cast("str", body["hash"]),
        signature=cast("str", body["signature"]),
        text=source,
    )


def _check_seal(body: JsonObject, source: str) -> str:
    """Check hash and signature over the signed text and give the signer's address."""
    claimed, signature = body.get("hash"), body.get("signature")
    if not isinstance(claimed, str) or not isinstance(signature, str):
        raise InvalidFrame("hash and signature must be there, as strings")
    raw_signature = parse_signature(signature)
    message = _signed_text(body, source).encode()
    if claimed != keccak(message).hex():
        raise InvalidFrame(
            "the hash is not that of the text; hash the compact text with hash and signature blank"
        )
    return recover_message(message, raw_signature)


def _signed_text(body: JsonObject, source: str) -> str:
    """The text that was signed, quickly for compact text that ends with its seal, as ours does.

    When printing the parsed frame gives the very text received, then that text is compact and its
    tokens are the sender's. Else, and wherever the seal stands, the tokens are kept one by one.
    """
    tail = f',"hash":"{body["hash"]}","signature":"{body["signature"]}"}}'
    if source.endswith(tail) and _compact(body) == source:
        return source.removesuffix(tail) + _BLANK_TAIL
    return _signed_text_exact(source)


def _signed_text_exact(source: str) -> str:
    members = _read_exact(source)
    return _write_exact(_Members((key, _BLANK.get(key, value)) for key, value in members))


class _Number(str):
    """A number as its sender wrote it."""

    __slots__ = ()


class _Members(list[tuple[str, Any]]):
    """An object as its sender ordered it."""

    __slots__ = ()


_EXACT = json.JSONDecoder(object_pairs_hook=_Members, parse_int=_Number, parse_float=_Number)


def _read_exact(source: str) -> _Members:
    return cast("_Members", _EXACT.decode(source))


def _write_exact(value: object) -> str:
    match value:
        case _Number():
            return str(value)
        case _Members():
            return "{" + ",".join(f"{_compact(key)}:{_write_exact(member)}" for key, member in value) + "}"
        case list():
            return "[" + ",".join(map(_write_exact, value)) + "]"
        case _:
            return _compact(value)


_compact = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def _encode(value: dict[str, JsonValue]) -> bytes:
    try:
        return _compact(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidFrame(
            f"this cannot be sent as JSON: {error}; send finite numbers and valid text"
        ) from error
