import inspect
import json
import struct
import subprocess
import sys
from hashlib import sha256

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol import errors
from aos_protocol.canonical import canonical, digest, parse
from aos_protocol.errors import NotCanonical, ProtocolError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    # Doubles from 2^53 to 1e21 have a canonical form, but as JSON integers that are refused when read.
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not 2**53 <= abs(x) < 1e21)
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)

# RFC 8785, appendix B.
DOUBLES = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), DOUBLES.items())
def test_rfc_8785_doubles(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value).decode() == text


def test_rfc_8785_example() -> None:
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
    )
    assert canonical(parse(source)).decode() == expected


def test_rfc_8785_key_order_is_that_of_utf_16() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = list(json.loads(canonical(dict.fromkeys(names, 0))))
    assert ordered == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        float("nan"),
        float("inf"),
        [-float("inf")],
        "\ud800",
        {"\udfff": 1},
        {1: "number as key"},
        {None: 1},
        {b"bytes": 1},
        b"bytes",
        {"a": {1, 2}},
        pytest.param(object(), id="object"),
    ],
    ids=repr,
)
def test_values_without_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(NotCanonical, match="no RFC 8785 form"):
        canonical(value)  # type: ignore[arg-type]


def test_endless_nesting_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(NotCanonical, match="nested too deeply"):
        canonical(endless)  # type: ignore[arg-type]


def test_largest_integers_are_kept() -> None:
    assert canonical([2**53 - 1, 1 - 2**53]) == b"[9007199254740991,-9007199254740991]"


def test_digest_is_sha256_of_the_canonical_bytes() -> None:
    assert digest({"b": 1.0, "a": "é"}) == sha256('{"a":"é","b":1}'.encode()).hexdigest()


@given(VALUES)
def test_canonical_form_is_a_fixed_point_and_ignores_spelling(value: object) -> None:
    form = canonical(value)  # type: ignore[arg-type]
    assert canonical(parse(form)) == form
    spaced = json.dumps(value, indent=1, sort_keys=True)
    assert canonical(parse(spaced)) == form


@given(VALUES)
def test_parse_reads_what_json_writes(value: object) -> None:
    assert parse(json.dumps(value)) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{} {}", "Extra data"),
        ("{}\x00", "Extra data"),
        ("[1,]", "not JSON"),
        ("{'a':1}", "not JSON"),
        ("[01]", "not JSON"),
        ("[1.]", "not JSON"),
        ("[+1]", "not JSON"),
        ("[\u0661]", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("\u00a0{}", "not JSON"),
        ('["\t"]', "control character"),
        ('["\\x41"]', "escape"),
        ("[NaN]", "NaN is not JSON"),
        ("[Infinity]", "Infinity is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("[1e400]", "beyond double precision"),
        ("[-1e400]", "beyond double precision"),
        ("1" * 5000, "too many digits"),
        ('{"a":1,"a":1}', "duplicate key 'a'"),
        ('{"a":1,"\\u0061":2}', "duplicate key 'a'"),
        ('[{"x":{"b":1,"c":2,"b":3}}]', "duplicate key 'b'"),
        ('["\\ud800"]', "lone surrogate"),
        ('{"\\uDFFF":1}', "lone surrogate"),
        ('["\ud800"]', "lone surrogate"),
        (b'["\xff"]', "not UTF-8"),
        (b'["\xc0\x80"]', "not UTF-8"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        ('["a"]'.encode("utf-16"), "not UTF-8"),
        (nested(65), "deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("[" * 1_000_000, "deeper than 64"),
        ('{"a":' * 200_000, "deeper than 64"),
    ],
    ids=lambda case: repr(case)[:30],
)
def test_what_is_not_strict_json_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(NotCanonical, match=reason):
        parse(text)


def test_depth_counts_arrays_and_objects_not_brackets_in_strings() -> None:
    assert parse(nested(64)) is not None
    assert parse(nested(3), max_depth=3) == [[[]]]
    assert parse('[["' + "[" * 100 + '"]]', max_depth=2) == [["[" * 100]]
    with pytest.raises(NotCanonical, match="deeper than 2"):
        parse('[{"a":[]}]', max_depth=2)
    with pytest.raises(NotCanonical, match="deeper than 0"):
        parse("[]", max_depth=0)


def test_depth_is_checked_in_linear_time_before_the_decoder_recurses() -> None:
    code = (
        "import sys; from aos_protocol.canonical import parse; from aos_protocol.errors import NotCanonical\n"
        "sys.setrecursionlimit(10**6)\n"
        "for text in ('[' * 10**6, '{\"a\":' * 10**5, '[' * 65 + '\"' + '\\\\\"' * 10**6):\n"
        "    try: parse(text)\n"
        "    except NotCanonical: print('refused')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (run.returncode, run.stdout.split()) == (0, ["refused"] * 3)


def test_brackets_after_escaped_quotes_count_only_outside_strings() -> None:
    text = json.dumps(["\\", ['"[[[[\\"[', {"[\\\\": ["]]]"]}]])
    assert parse(text, max_depth=4) == json.loads(text)
    with pytest.raises(NotCanonical, match="deeper than 3"):
        parse(text, max_depth=3)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(VALUES, st.integers(0, 4))
def test_depth_is_that_of_the_value(value: object, max_depth: int) -> None:
    text = json.dumps(value)
    if depth(value) <= max_depth:
        assert parse(text, max_depth=max_depth) == value
    else:
        with pytest.raises(NotCanonical, match="deeper"):
            parse(text, max_depth=max_depth)


def test_surrogate_pairs_and_escaped_text_are_fine() -> None:
    assert parse(r'["\ud83d\ude00\u0000"]') == ["\U0001f600\x00"]


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_parse_refuses_in_its_own_words_only(text: str | bytes) -> None:
    try:
        value = parse(text)
    except NotCanonical:
        return
    assert json.loads(text) == value


def test_every_error_says_by_default_what_its_docstring_says() -> None:
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ProtocolError)
    ]
    assert len(kinds) >= 12
    for kind in kinds:
        assert str(kind()) == kind.__doc__
        assert ";" in str(kind()), "a default message says what to do next"
        assert str(kind("other")) == "other"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**53 - 1, 2**53, -(2**53) + 1, -(2**53)])
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


FLOATS = (
    st.floats(-1e-3, 1e-3)
    | st.floats(-1e18, 1e18)
    | st.integers(-(2**54), 2**54).map(float)
    | st.integers(-(10**9), 10**9).map(lambda number: number / 1000)
    | st.sampled_from(
        [1e-4, 0.0001 - 1e-19, 0.1, -0.0, 2.0**52, 2.0**52 - 0.5, 2.0**53 - 1, 2.0**53, 1e16, 1e21]
    )
)


@given(st.lists(FLOATS) | st.dictionaries(st.sampled_from("abc"), FLOATS))
def test_floats_of_every_size_are_written_as_the_library_of_record_does(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(ANYTHING)
def test_the_quick_way_writes_what_the_library_of_record_does(value: object) -> None:
    """Texts and keys of all planes, integers around 2^53, floats: what the standard library writes otherwise goes the other way."""
    try:
        expected = rfc8785.dumps(value)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(NotCanonical):
            canonical(value)  # type: ignore[arg-type]
    else:
        assert canonical(value) == expected  # type: ignore[arg-type]
