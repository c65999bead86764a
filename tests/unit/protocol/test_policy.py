"""Policies: what cannot be meant is refused when it is read, and nothing is trusted that is not named."""

import copy
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation.policy import NITRO_ROOT_G1, AttestationPolicy, ModelPolicy
from aos_protocol.canonical import canonical
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message

REGISTER, OTHER, ZERO = "ab" * 48, "cd" * 48, "00" * 48
ROOT = "1d" * 32
NITRO = {"builds": [{"name": "0.4.0", "measurements": {"pcr0": REGISTER, "pcr1": OTHER, "pcr2": ZERO}}]}
TDX = {"builds": [{"name": "0.4.0", "measurements": {"mr_td": REGISTER, "rt_mr1": OTHER, "rt_mr2": OTHER}}]}
SNP = {"builds": [{"name": "0.4.0", "measurements": {"measurement": REGISTER}}], "roots": [ROOT]}
SIMULATED = NITRO | {"roots": [ROOT]}
KINDS: dict[str, dict[str, Any]] = {"nitro": NITRO, "tdx": TDX, "sev-snp": SNP, "simulated": SIMULATED}


def written(models: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "version": "aos-attestation-policy/1",
        "models": {"tiny.gguf": {"nitro": NITRO}} if models is None else models,
    } | changes


def refused(document: Any) -> str:
    with pytest.raises(InvalidMessage) as caught:
        parse_message(AttestationPolicy, document)
    return str(caught.value)


def refused_entry(kind: str, change: dict[str, Any]) -> str:
    """Why a policy whose entry of this kind is changed is refused."""
    return refused(written({"m": {kind: KINDS[kind] | change}}, allow_simulated=True))


def refused_build(kind: str, change: dict[str, Any], measurements: dict[str, Any]) -> str:
    build = copy.deepcopy(KINDS[kind]["builds"][0])
    build |= change
    build["measurements"] |= measurements
    return refused_entry(kind, {"builds": [build]})


def test_a_short_policy_is_enough_and_strict_by_default() -> None:
    policy = parse_message(AttestationPolicy, written())
    entry = policy.models["tiny.gguf"]
    assert (policy.allow_simulated, entry.sha256, entry.maximum_age) == (False, None, 900)
    assert entry.trusted("nitro") is not None
    assert entry.roots("nitro") == [NITRO_ROOT_G1]
    assert [entry.trusted(kind) for kind in ("tdx", "sev-snp", "simulated")] == [None] * 3
    assert [entry.roots(kind) for kind in ("tdx", "sev-snp", "simulated")] == [[]] * 3


def test_every_kind_can_be_named_and_survives_json() -> None:
    policy = parse_message(AttestationPolicy, written({"m": KINDS}, allow_simulated=True))
    entry = policy.models["m"]
    for kind in ("nitro", "tdx", "sev-snp", "simulated"):
        trusted = entry.trusted(kind)
        assert trusted is not None
        assert trusted.builds[0].measurements == KINDS[kind]["builds"][0]["measurements"]
    assert entry.roots("sev-snp") == entry.roots("simulated") == [ROOT]
    assert "sev-snp" in policy.to_json()["models"]["m"]
    assert parse_message(AttestationPolicy, policy.to_json()) == policy


def test_a_policy_s_digest_is_of_what_it_means() -> None:
    policy = parse_message(AttestationPolicy, written())
    spelt_out = written(
        {"tiny.gguf": {"maximum_age": 900, "nitro": NITRO | {"roots": []}}}, allow_simulated=False
    )
    assert parse_message(AttestationPolicy, spelt_out).digest() == policy.digest()
    assert policy.digest() == hashlib.sha256(canonical(policy.to_json())).hexdigest()
    for change in ({"maximum_age": 901}, {"sha256": "3d" * 32}, {"tdx": TDX}):
        other = parse_message(AttestationPolicy, written({"tiny.gguf": {"nitro": NITRO} | change}))
        assert other.digest() != policy.digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "aos-attestation-policy/2"}, "version: "),
        ({"allow_simulated": "true"}, "allow_simulated: "),
        ({"allow_simulated": 1}, "allow_simulated: "),
        ({"models": []}, "models: "),
        ({"models": {"": {"nitro": NITRO}}}, "models."),
        (
            {"models": {"m": {}}},
            "names no kind of enclave; give at least one of nitro, simulated, tdx, sev-snp",
        ),
        ({"models": {"m": {"nitro": None}}}, "names no kind of enclave"),
        ({"models": {"m": {"sgx": NITRO}}}, "models.m.sgx: "),
        ({"models": {"m": {"nitro": NITRO, "sha256": "3D" * 32}}}, "models.m.sha256: "),
        ({"models": {"m": {"nitro": NITRO, "maximum_age": 0}}}, "models.m.maximum_age: "),
        ({"models": {"m": {"nitro": NITRO, "maximum_age": 604_801}}}, "models.m.maximum_age: "),
        ({"models": {"m": {"nitro": NITRO, "maximum_age": 1.5}}}, "models.m.maximum_age: "),
        ({"policy": {}}, "policy: "),
    ],
    ids=lambda change: str(change)[:50],
)
def test_a_policy_is_strict_and_closed(change: dict[str, Any], said: str) -> None:
    assert said in refused(written() | change)


def test_simulated_enclaves_are_trusted_on_purpose_only() -> None:
    models = {"m": {"simulated": SIMULATED}}
    assert "m trusts simulated enclaves, which prove nothing" in refused(written(models))
    assert (
        parse_message(AttestationPolicy, written(models, allow_simulated=True)).models["m"].simulated
        is not None
    )


def test_a_kind_is_not_named_twice_in_two_spellings() -> None:
    entry = {"sev-snp": SNP, "sev_snp": SNP | {"roots": ["2e" * 32]}}
    with pytest.raises(InvalidMessage, match="sev_snp: Extra inputs are not permitted"):
        parse_message(ModelPolicy, entry)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_needs_builds(kind: str) -> None:
    assert f"models.m.{kind}.builds: " in refused_entry(kind, {"builds": []})
    assert f"models.m.{kind}.builds: Field required" in refused(
        written({"m": {kind: {"roots": [ROOT]}}}, allow_simulated=True)
    )


@pytest.mark.parametrize(
    ("kind", "register"),
    [(kind, name) for kind, entry in KINDS.items() for name in entry["builds"][0]["measurements"]],
)
def test_a_build_names_every_register_that_makes_it_one(kind: str, register: str) -> None:
    build = copy.deepcopy(KINDS[kind]["builds"][0])
    del build["measurements"][register]
    build["measurements"]["extra"] = REGISTER
    assert f"{kind} build '0.4.0' lacks {register}" in refused_entry(kind, {"builds": [build]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["ab" * 32, "ab" * 47, "ab" * 49, "ab" * 64])
def test_a_register_has_48_bytes(kind: str, value: str) -> None:
    register = next(iter(KINDS[kind]["builds"][0]["measurements"]))
    assert f"{register} has 96 hex digits" in refused_build(kind, {}, {register: value})


@pytest.mark.parametrize(
    "value", ["", "AB" * 48, "ab" * 47 + "a", "0x" + "ab" * 47, "zz" * 48, "ab" * 65, 7, None]
)
def test_a_register_is_lower_case_hex(value: Any) -> None:
    assert "measurements.pcr0: " in refused_build("nitro", {}, {"pcr0": value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "builds.0.name: "),
        ({"allow_debug": "yes"}, "builds.0.allow_debug: "),
        ({"measurement": REGISTER}, "builds.0.measurement: "),
    ],
)
def test_a_build_is_strict_and_closed(change: dict[str, Any], said: str) -> None:
    assert said in refused_build("nitro", change, {})


def test_a_register_s_name_is_lower_case() -> None:
    assert "measurements.PCR3" in refused_build("nitro", {}, {"PCR3": REGISTER})


@pytest.mark.parametrize("kind", ["nitro", "simulated"])
def test_registers_of_zero_are_every_debug_enclave_s_and_need_a_word(kind: str) -> None:
    zeros = {"pcr0": ZERO, "pcr1": ZERO, "pcr2": ZERO}
    assert "what every enclave in debug mode measures" in refused_build(kind, {}, zeros)
    build = {"name": "any image", "measurements": zeros, "allow_debug": True}
    entry = {"m": {kind: KINDS[kind] | {"builds": [build]}}}
    assert parse_message(AttestationPolicy, written(entry, allow_simulated=True))


def test_two_builds_have_two_names() -> None:
    """An appraisal names the build, which tells an auditor what ran."""
    twice = {"name": "0.4.0", "measurements": {"pcr0": OTHER, "pcr1": OTHER, "pcr2": OTHER}}
    assert "two builds are called 0.4.0" in refused_entry("nitro", {"builds": [NITRO["builds"][0], twice]})
    renamed = NITRO | {"builds": [NITRO["builds"][0], twice | {"name": "0.4.1"}]}
    assert parse_message(AttestationPolicy, written({"m": {"nitro": renamed}}))


@pytest.mark.parametrize("kind", ["sev-snp", "simulated"])
def test_where_no_root_is_known_one_is_needed(kind: str) -> None:
    assert f"{kind} needs roots" in refused_entry(kind, {"roots": []})
    assert "roots.0: " in refused_entry(kind, {"roots": ["1D" * 32]})


def test_intel_s_root_cannot_be_chosen_and_platform_states_only_there() -> None:
    assert "tdx has no roots to choose" in refused_entry("tdx", {"roots": [ROOT]})
    for kind in ("nitro", "sev-snp", "simulated"):
        assert f"{kind} has no tcb to choose" in refused_entry(kind, {"tcb": ["OutOfDate"]})


@pytest.mark.parametrize("state", ["Revoked", "uptodate", "", "Any"])
def test_only_platform_states_that_exist_and_can_be_trusted(state: str) -> None:
    assert "tcb.0: " in refused_entry("tdx", {"tcb": [state]})
    assert "tdx.tcb: " in refused_entry("tdx", {"tcb": []})


@pytest.mark.parametrize("state", ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate"])
def test_states_of_a_platform_are_intel_s(state: str) -> None:
    policy = parse_message(AttestationPolicy, written({"m": {"tdx": TDX | {"tcb": [state]}}}))
    trusted = policy.models["m"].trusted("tdx")
    assert trusted is not None
    assert trusted.tcb == [state]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data(), JSON)
def test_nothing_that_can_be_written_breaks_the_reader(data: st.DataObject, value: Any) -> None:
    """Any value anywhere is a policy or `InvalidMessage`."""
    document = written({"m": copy.deepcopy(KINDS)}, allow_simulated=True)
    place: Any = document
    for _ in range(data.draw(st.integers(0, 5))):
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key]:
            break
        place = place[key]
    place[data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))] = value
    try:
        policy = parse_message(AttestationPolicy, document)
    except InvalidMessage:
        return
    assert parse_message(AttestationPolicy, policy.to_json()) == policy
