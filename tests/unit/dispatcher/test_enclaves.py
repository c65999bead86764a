"""The attestation policy of a dispatcher: how it is read, what is said of it at start, and which jobs it lets in."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from typer.testing import CliRunner

from aos_dispatcher import views
from aos_dispatcher.enclaves import Enclaves, refusals_seen
from aos_dispatcher.errors import Unprocessable
from aos_dispatcher.main import app
from aos_dispatcher.settings import DispatcherSettings, load_policy
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import EnclaveStatement
from aos_protocol.errors import InvalidAttestation
from aos_protocol.fields import parse_message
from aos_protocol.job import JobSpec
from aos_protocol.messages import JobResult, ModelOffer
from aos_service.errors import SettingsError
from aos_service.settings import load_settings

TEMPLATES = Path(__file__).parents[3] / "docs" / "template"
FILE = "ab" * 32
REGISTERS = {"pcr0": "11" * 48, "pcr1": "22" * 48, "pcr2": "33" * 48}
TRUSTED = {"builds": [{"name": "a release", "measurements": REGISTERS}], "roots": ["cd" * 32]}


def policy(*, allow_simulated: bool = False, **models: Any) -> AttestationPolicy:
    """A policy with entries `name=kinds`, where `name` stands for the model `name.gguf`."""
    document = {
        "version": "aos-attestation-policy/1",
        "allow_simulated": allow_simulated,
        "models": {f"{name}.gguf": entry for name, entry in models.items()},
    }
    return parse_message(AttestationPolicy, document)


def job(model: str = "tiny.gguf", tag: str = "tee") -> JobSpec:
    return parse_message(JobSpec, {"tag": tag, "prompt": "What is AI?", "model": model})


def settings(named: str | None) -> DispatcherSettings:
    document: dict[str, Any] = {"database": {"url": "postgres://nowhere"}, "identity": {}}
    return DispatcherSettings.model_validate(document | {"attestation": {"policy": named}})


def written(folder: Path, text: str) -> Path:
    """A settings file in this folder, with a policy of this text beside it."""
    (folder / "policy.yaml").write_text(text)
    return folder / "config.yaml"


def test_the_template_is_a_policy_and_so_is_all_that_it_has_in_comments(tmp_path: Path) -> None:
    template = (TEMPLATES / "attestation-policy.yaml").read_text()
    read = load_settings(TEMPLATES / "attestation-policy.yaml", AttestationPolicy)
    assert (list(read.models), read.allow_simulated) == (["my-model.gguf"], False)
    keys = "- name|tdx|sev-snp|simulated|tcb|roots|builds|measurements?|mr_td|rt_mr[12]|pcr[012]"
    whole = re.sub(rf"^    # ( *(?:{keys}):)", r"    \1", template, flags=re.MULTILINE)
    (tmp_path / "all.yaml").write_text(whole.replace("allow_simulated: false", "allow_simulated: true"))
    (model,) = load_settings(tmp_path / "all.yaml", AttestationPolicy).models.values()
    assert all(model.trusted(kind) for kind in ("nitro", "tdx", "sev-snp", "simulated"))


def test_the_dispatchers_template_names_the_policy_that_stands_beside_it() -> None:
    template = (TEMPLATES / "config-dispatcher.yaml").read_text()
    (named,) = re.findall(r"^  # policy: (\S+)$", template, flags=re.MULTILINE)
    assert load_policy(settings(named), TEMPLATES / "config-dispatcher.yaml") is not None


def test_no_policy_is_none_and_one_is_looked_for_beside_the_settings(tmp_path: Path) -> None:
    assert load_policy(settings(None), tmp_path / "config.yaml") is None
    file = written(tmp_path, "version: aos-attestation-policy/1\nmodels: {}\n")
    for named in ("policy.yaml", str(tmp_path / "policy.yaml")):
        assert load_policy(settings(named), file) == policy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "version: aos-attestation-policy/2\nmodels: {}\n",
            ":1: version: should be 'aos-attestation-policy/1'",
        ),
        ("version: aos-attestation-policy/1\nmodles: {}\n", ":2: modles: unknown key, did you mean models?"),
        (
            "version: aos-attestation-policy/1\nmodels:\n  a.gguf: {}\n",
            ":3: models.a.gguf: names no kind of enclave",
        ),
        (
            "version: aos-attestation-policy/1\nmodels:\n  a.gguf:\n    nitro:\n      builds:\n"
            '        - {name: a, measurements: {pcr0: "00"}}\n',
            ":6: models.a.gguf.nitro.builds[0].measurements.pcr0: ",
        ),
        ("version: [\n", "policy.yaml:2: "),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_by_file_line_and_key(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_policy(settings("policy.yaml"), written(tmp_path, text))
    assert any(
        line.startswith(f"{tmp_path / 'policy.yaml'}:") and said in line for line in caught.value.problems
    )


def test_a_dispatcher_with_a_bad_policy_does_not_start(tmp_path: Path) -> None:
    config = written(tmp_path, "version: aos-attestation-policy/1\nmodels:\n  a.gguf: {}\n")
    config.write_text(
        "database: {url: postgres://nobody@127.0.0.1:1/nothing}\n"
        f"identity: {{signer_key: '{'11' * 32}'}}\nattestation: {{policy: policy.yaml}}\n"
    )
    config.chmod(0o600)
    ran = CliRunner().invoke(app, ["run", "-c", str(config)])
    assert ran.exit_code == 1
    assert f"dispatcher: {tmp_path / 'policy.yaml'}:3: models.a.gguf: names no kind of enclave" in ran.stderr


def test_the_start_says_what_is_trusted_and_warns_of_simulated_enclaves() -> None:
    hardware = policy(large={"nitro": TRUSTED, "sev-snp": {**TRUSTED, "builds": [_measured()]}})
    with capture_logs() as logs:
        Enclaves(hardware).announce()
    (line,) = logs
    assert (line["log_level"], line["trusted"]) == ("info", {"large.gguf": ["nitro", "sev-snp"]})
    assert line["digest"] == hardware.digest()
    with capture_logs() as logs:
        Enclaves(
            policy(allow_simulated=True, tiny={"simulated": TRUSTED}, large={"nitro": TRUSTED})
        ).announce()
    assert [line["log_level"] for line in logs] == ["info", "warning"]
    assert "simulated enclaves are trusted" in logs[1]["event"]
    assert logs[1]["models"] == ["tiny.gguf"]
    with capture_logs() as logs:
        Enclaves(None).announce()
    assert [line["event"] for line in logs] == [
        "no attestation policy, so no tee jobs are taken: attestation.policy names one"
    ]


def _measured() -> dict[str, Any]:
    return {"name": "a release", "measurements": {"measurement": "44" * 48}}


@pytest.mark.parametrize(
    ("trusted", "said"),
    [
        (
            None,
            "has no attestation policy, so it takes no tee jobs: submit this one as opml, or ask the owner",
        ),
        (policy(), "no entry for model tiny.gguf; there is: none"),
        (policy(large={"nitro": TRUSTED}), "no entry for model tiny.gguf; there is: large.gguf"),
        (
            policy(tiny={"nitro": TRUSTED, "sha256": "ee" * 32}),
            f"model tiny.gguf is the file {FILE} here, and the attestation policy is for {'ee' * 32}",
        ),
    ],
)
def test_a_tee_job_that_no_enclave_could_answer_is_not_let_in(
    trusted: AttestationPolicy | None, said: str
) -> None:
    with pytest.raises(Unprocessable) as caught:
        Enclaves(trusted).admit(job(), FILE)
    assert said in str(caught.value)
    Enclaves(trusted).admit(job(tag="opml"), FILE)


def test_a_tee_job_of_a_model_with_an_entry_is_let_in() -> None:
    Enclaves(policy(tiny={"nitro": TRUSTED})).admit(job(), FILE)
    Enclaves(policy(tiny={"nitro": TRUSTED, "sha256": FILE})).admit(job(), FILE)


async def test_without_a_policy_no_enclave_is_believed() -> None:
    result: Any = JobResult.model_construct()
    statement: Any = EnclaveStatement.model_construct()
    with pytest.raises(InvalidAttestation, match=r"\(any more\), so it believes no enclave"):
        await Enclaves(None).appraise(result, statement, "ab" * 32)


async def test_an_enclave_is_appraised_now_and_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates and signatures take milliseconds, in which everybody else would wait."""
    asked: list[Any] = []

    def appraised(_attestation: Any, _policy: Any, **named: Any) -> None:
        asked.append((named, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr("aos_dispatcher.enclaves.appraise", appraised)
    model: Any = {"model": ModelOffer(name="tiny.gguf", sha256=FILE)}
    result, statement = JobResult.model_construct(**model), EnclaveStatement.model_construct(attestation=None)
    await Enclaves(policy()).appraise(result, statement, "ab" * 32)
    ((named, on_the_loop),) = asked
    assert (named["model"], named["nonce"], on_the_loop) == ("tiny.gguf", "ab" * 32, False)
    assert abs(named["now"] - time.time()) < 60


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (None, "none"),
        ({}, "none"),
        ({"attestation": []}, "none"),
        ({"attestation": {"kind": "made up"}}, "none"),
        ({"attestation": {"kind": ["nitro"]}}, "none"),
        ({"attestation": {"kind": "nitro"}}, "nitro"),
        ({"attestation": {"kind": "simulated"}}, "simulated"),
    ],
)
def test_a_refusal_is_counted_by_a_kind_that_exists_whatever_was_sent(sent: Any, kind: str) -> None:
    result: Any = JobResult.model_construct(job_id="ab" * 32, operator="0x0", enclave=sent)
    labels = {"kind": kind, "outcome": "refused"}
    before = REGISTRY.get_sample_value("aos_attestations_total", labels) or 0
    with capture_logs() as logs, pytest.raises(InvalidAttestation), refusals_seen(result):
        raise InvalidAttestation("its root is unknown")
    assert REGISTRY.get_sample_value("aos_attestations_total", labels) == before + 1
    assert [(line["attestation"], line["why"]) for line in logs] == [(kind, "its root is unknown")]


def test_other_refusals_are_not_an_enclaves() -> None:
    result: Any = JobResult.model_construct(enclave=None)
    with capture_logs() as logs, pytest.raises(KeyError), refusals_seen(result):
        raise KeyError
    assert logs == []


@pytest.mark.parametrize(
    ("appraisal", "shown"),
    [
        (None, None),
        ({"build": "a release", "debug": False}, "a release"),
        ({"build": "a release", "debug": True}, "a release (debug)"),
    ],
)
def test_a_build_that_its_host_can_read_is_shown_as_such(
    appraisal: dict[str, Any] | None, shown: str | None
) -> None:
    assert views._build(appraisal) == shown
