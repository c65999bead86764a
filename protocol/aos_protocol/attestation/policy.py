"""What a verifier wants of an enclave before it believes it: for each model, which hardware, which builds, and how fresh."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from aos_protocol.attestation.statement import Kind
from aos_protocol.canonical import digest
from aos_protocol.fields import Hex32, Message, ShortText

VERSION: Final = "aos-attestation-policy/1"

NITRO_ROOT_G1: Final = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
"""SHA-256 of the AWS Nitro Enclaves root certificate G1, as AWS documents it under "Verifying the root of trust"."""

_NEEDED: Final[dict[Kind, frozenset[str]]] = {
    "nitro": frozenset({"pcr0", "pcr1", "pcr2"}),
    "simulated": frozenset({"pcr0", "pcr1", "pcr2"}),
    "tdx": frozenset({"mr_td", "rt_mr1", "rt_mr2"}),
    "sev-snp": frozenset({"measurement"}),
}
_REGISTER_BYTES: Final = 48
"""All measurements that a build needs are SHA-384."""

Tcb = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""What Intel says of a TDX platform's patches; one whose keys are revoked cannot be trusted by any policy."""
_UP_TO_DATE: Final[list[Tcb]] = ["UpToDate"]

Measurement = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){8,64}$")]
Named = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]


class Build(Message):
    """One build that is trusted: every measurement that is named here must be as it is here (hex).

    Nitro measures `pcr0` and up, TDX `mr_td`, `rt_mr0` to `rt_mr3`, `mr_config_id` and others, SEV-SNP `measurement`. A build in debug mode,
    whose memory its host can read, is refused unless `allow_debug`. Nitro's registers are zero in debug mode whatever runs, so that a
    build of zeros stands for every image there is, and needs `allow_debug`.
    """

    name: ShortText
    measurements: dict[Named, Measurement] = Field(min_length=1, max_length=32)
    allow_debug: bool = False


class Trusted(Message):
    """Which enclaves of one kind are trusted: `roots` are SHA-256 of root certificates in DER, `tcb` the states of a TDX platform."""

    builds: list[Build] = Field(min_length=1, max_length=64)
    roots: list[Hex32] = Field(default_factory=list, max_length=8)
    tcb: list[Tcb] = Field(default_factory=lambda: list(_UP_TO_DATE), min_length=1, max_length=8)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [build.name for build in self.builds]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two builds are called {twice}, and appraisals name builds: rename one")
        return self


class ModelPolicy(Message):
    """What is wanted of enclaves that serve one model; a kind that is not named is not trusted.

    `sha256` pins the model's file; without it, whichever file the name stands for. `maximum_age` is in seconds, from the attestation's
    making to its appraisal.
    """

    sha256: Hex32 | None = None
    maximum_age: int = Field(900, ge=1, le=7 * 86400)
    nitro: Trusted | None = None
    tdx: Trusted | None = None
    sev_snp: Trusted | None = Field(None, alias="sev-snp")
    simulated: Trusted | None = None

    def trusted(self, kind: Kind) -> Trusted | None:
        """Return which enclaves of this kind are trusted; None when none are."""
        found: Trusted | None = getattr(self, kind.replace("-", "_"))
        return found

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = {kind: trusted for kind in _NEEDED if (trusted := self.trusted(kind)) is not None}
        if not given:
            raise ValueError(f"names no kind of enclave; give at least one of {', '.join(_NEEDED)}")
        for kind, trusted in given.items():
            _check_kind(kind, trusted)
        return self

    def roots(self, kind: Kind) -> list[str]:
        """Return the fingerprints of the roots that are trusted for this kind; Nitro's own unless others are given."""
        trusted = self.trusted(kind)
        given = trusted.roots if trusted else []
        return given or ([NITRO_ROOT_G1] if kind == "nitro" else [])


class AttestationPolicy(Message):
    """A verifier's whole policy, by model name. Simulated enclaves are refused unless `allow_simulated` says otherwise, too."""

    version: Literal["aos-attestation-policy/1"]
    allow_simulated: bool = False
    models: dict[ShortText, ModelPolicy] = Field(max_length=1024)

    @model_validator(mode="after")
    def _simulated_on_purpose(self) -> Self:
        simulated = [name for name, model in self.models.items() if model.simulated is not None]
        if simulated and not self.allow_simulated:
            raise ValueError(
                f"{simulated[0]} trusts simulated enclaves, which prove nothing: remove that, or write allow_simulated: true"
            )
        return self

    def digest(self) -> str:
        """Return the SHA-256 hex of the policy's RFC 8785 JSON, which appraisals name."""
        return digest(self.to_json())


def _check_kind(kind: Kind, trusted: Trusted) -> None:
    """Raise `ValueError` for what an entry of this kind lacks, or says to no effect."""
    for build in trusted.builds:
        _check_build(kind, build)
    if trusted.roots and kind == "tdx":
        raise ValueError("tdx has no roots to choose: its verifier has Intel's built in")
    if not trusted.roots and kind in {"simulated", "sev-snp"}:
        raise ValueError(f"{kind} needs roots: the SHA-256 of each root certificate that is trusted")
    if kind != "tdx" and trusted.tcb != _UP_TO_DATE:
        raise ValueError(f"{kind} has no tcb to choose: only tdx has one")


def _check_build(kind: Kind, build: Build) -> None:
    needed = _NEEDED[kind]
    missing = needed - build.measurements.keys()
    if missing:
        raise ValueError(f"{kind} build {build.name!r} lacks {', '.join(sorted(missing))}")
    for name in sorted(needed):
        if len(build.measurements[name]) != 2 * _REGISTER_BYTES:
            raise ValueError(f"{kind} build {build.name!r}: {name} has {2 * _REGISTER_BYTES} hex digits")
    zero = not any(int(build.measurements[name], 16) for name in needed)
    if zero and kind in {"nitro", "simulated"} and not build.allow_debug:
        raise ValueError(
            f"{kind} build {build.name!r} is what every enclave in debug mode measures: give its true "
            "registers, or write allow_debug: true"
        )
