"""The configuration file: AOS's keys, ours, and what is said about mistakes."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from aos_operator.settings import OperatorSettings
from aos_protocol.fields import describe
from aos_service.errors import SettingsError
from aos_service.settings import load_settings
from unit.operator.world import OPERATOR

TEMPLATE = Path(__file__).parents[3] / "docs" / "template" / "config-operator.yaml"
DISPATCHER = "0x1563915e194D8CfBA1943570603F7606A3115508"
KEY = "11" * 32

MINIMAL: dict[str, Any] = {
    "db": {"pg_db_url": "postgres://u:secretpw@h:5432/operator_db"},
    "queue": {"queue_url": "redis://:secretpw@h:6379/0"},
    "net": {"dispatcher_url": "ws://h:1/ws"},
    "node": {"signer_key": KEY, "dispatcher_address": DISPATCHER},
}

# Every key of AOS's own template, with its default where it has one.
AOS_KEYS: dict[str, dict[str, Any]] = {
    "db": {
        "pg_db_url": "postgres://u:p@h:5432",
        "pg_db_name": "operator_db",
        "max_connect_pool": 30,
        "min_connect_pool": 10,
        "connect_timeout": 30,
        "acquire_timeout": 60,
    },
    "queue": {"queue_url": "redis://h:6379", "topic": "task"},
    "net": {
        "rest_url": "0.0.0.0:21001",
        "outer_url": "http://h:21001",
        "dispatcher_url": "ws://h:1/ws",
        "callback_url": "http://h:21001/api/v1/callback",
        "tee_llm_cid": 15,
        "tee_llm_port": 5005,
    },
    "node": {
        "node_id": OPERATOR.address.lower(),
        "signer_key": KEY,
        "vrf_key": "0x" + KEY.upper(),
        "dispatcher_address": DISPATCHER,
        "node_type": "opml",
        "cache_msg_maximum": 500,
        "heartbeat_interval": 10,
        "ai_models": ["llama-2-7b-chat.Q4_0.gguf"],
    },
    "chain": {"chain_rpc_url": "http://h:8545", "vrf_range_contract": DISPATCHER, "vrf_sort_precision": 6},
    "api": {"read_maximum": 20},
}


def changed(group: str, **keys: Any) -> dict[str, Any]:
    return {**MINIMAL, group: {**MINIMAL.get(group, {}), **keys}}


def problem(settings: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        OperatorSettings.model_validate(settings)
    return describe(caught.value)


def test_a_file_of_aos_is_read_and_what_has_no_effect_is_said_once() -> None:
    settings = OperatorSettings.model_validate(AOS_KEYS)
    assert settings.node.node_id == OPERATOR.address
    assert settings.db.url().database == "operator_db"
    assert [notice.split(" ")[0] for notice in settings.notices()] == [
        "net.callback_url",
        "chain.vrf_sort_precision",
        "net.tee_llm_cid",
        "net.tee_llm_port",
    ]


def test_the_defaults_are_those_of_aos() -> None:
    settings = OperatorSettings.model_validate(MINIMAL)
    for group, keys in AOS_KEYS.items():
        for key in keys.keys() & {
            "max_connect_pool",
            "min_connect_pool",
            "connect_timeout",
            "acquire_timeout",
            "topic",
            "tee_llm_cid",
            "tee_llm_port",
            "node_type",
            "cache_msg_maximum",
            "heartbeat_interval",
            "read_maximum",
        }:
            assert getattr(getattr(settings, group), key) == keys[key]
    assert settings.worker_url == "http://127.0.0.1:5005"
    assert (settings.net.worker_concurrency, settings.net.worker_timeout) == (4, 900)
    assert settings.notices() == []


@pytest.mark.parametrize(
    ("node_type", "net", "url", "idle"),
    [
        ("opml", {}, "http://127.0.0.1:5005", []),
        ("tee", {}, "vsock://15:5005", []),
        ("tee", {"tee_llm_cid": 3, "tee_llm_port": 2**32 - 1}, "vsock://3:4294967295", []),
        ("tee", {"worker_url": "http://127.0.0.1:5005"}, "http://127.0.0.1:5005", []),
        ("tee", {"worker_url": "unix:///run/w.sock"}, "unix:///run/w.sock", []),
        ("tee", {"worker_url": "vsock://16:1/", "tee_llm_cid": 15}, "vsock://16:1", ["net.tee_llm_cid"]),
        ("opml", {"worker_url": "vsock://16:1"}, "vsock://16:1", []),
        ("opml", {"tee_llm_port": 5005}, "http://127.0.0.1:5005", ["net.tee_llm_port"]),
    ],
)
def test_an_enclave_is_on_vsock_unless_the_file_says_where_the_worker_is(
    node_type: str, net: dict[str, Any], url: str, idle: list[str]
) -> None:
    file = {**changed("net", **net), "node": {**MINIMAL["node"], "node_type": node_type}}
    settings = OperatorSettings.model_validate(file)
    assert settings.worker_url == url
    assert [notice.split(" ")[0] for notice in settings.notices()] == idle


def test_secrets_do_not_show() -> None:
    shown = repr(OperatorSettings.model_validate(MINIMAL))
    assert "secretpw" not in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ws://h:1/ws", "ws://h:1/ws"),
        ("wss://h/ws", "wss://h/ws"),
        ("ws://h:1", "ws://h:1/ws"),
        ("http://h:1", "ws://h:1/ws"),
        ("https://h/", "wss://h/ws"),
        ("http://h:1/ws", "ws://h:1/ws"),
        ("https://h/aos", "wss://h/aos/ws"),
        ("ws://h/deep/path", "ws://h/deep/path"),
    ],
)
def test_the_dispatchers_address_becomes_a_websocket(given: str, meant: str) -> None:
    settings = OperatorSettings.model_validate(changed("net", dispatcher_url=given))
    assert settings.net.dispatcher_url == (meant,)


def test_a_dispatcher_may_have_several_addresses() -> None:
    several = changed("net", dispatcher_url=["ws://h:1/ws", "https://other"])
    assert OperatorSettings.model_validate(several).net.dispatcher_url == ("ws://h:1/ws", "wss://other/ws")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (changed("net", dispatcher_url="h:1"), "net.dispatcher_url: must be ws://"),
        (changed("net", dispatcher_url=["ws://h:1/ws", "h:1"]), "net.dispatcher_url: must be ws://"),
        (changed("net", dispatcher_url=[]), "net.dispatcher_url"),
        (changed("net", dispatcher_url=[1]), "net.dispatcher_url"),
        (changed("net", dispatcher_url=7), "net.dispatcher_url"),
        (changed("net", worker_url="unix://worker.sock"), "three slashes"),
        (changed("net", worker_url="ftp://h"), "net.worker_url: must be http://"),
        (changed("net", worker_url="vsock://2:5005"), "net.worker_url: has CID 2: an enclave's is 3 to"),
        (changed("net", worker_url="vsock://15:0"), "net.worker_url: has port 0: vsock ports are 1 to"),
        (changed("net", worker_url="http://h:70000"), "net.worker_url: has a port that is none"),
        (changed("net", tee_llm_cid=2), "net.tee_llm_cid"),
        (changed("net", tee_llm_cid=2**32), "net.tee_llm_cid"),
        (changed("net", tee_llm_port=0), "net.tee_llm_port"),
        (changed("net", worker_concurrency=0), "net.worker_concurrency"),
        (changed("queue", queue_url="http://h"), "queue.queue_url: must be redis://"),
        (changed("queue", topic="a:b"), "queue.topic"),
        (changed("db", pg_db_url="mysql://h/x"), "db.pg_db_url: must be postgres://"),
        (changed("db", pg_db_name="another"), "db.pg_db_name: is not the database that pg_db_url names"),
        (changed("db", max_connect_pool=5), "db.min_connect_pool: must not exceed"),
        (changed("db", max_connect_pool=5, min_connect_pool=6), "db.min_connect_pool: must not exceed"),
        (changed("node", dispatcher_address="0x12"), "node.dispatcher_address"),
        (changed("node", dispatcher_address=DISPATCHER.swapcase()), "node.dispatcher_address"),
        (changed("node", node_type="gpu"), "node.node_type"),
        (
            changed("node", vrf_key="22" * 32),
            "must be the same as signer_key, or left out: a ticket counts only",
        ),
        (changed("node", signer_key=None, vrf_key=KEY), "must be the same as signer_key, or left out"),
        (changed("node", sineger_key=KEY), "node.sineger_key"),
        (changed("node", heartbeat_interval=0), "node.heartbeat_interval"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(settings: dict[str, Any], said: str) -> None:
    assert said in problem(settings)


def test_a_small_pool_needs_only_the_maximum() -> None:
    settings = OperatorSettings.model_validate(changed("db", max_connect_pool=5, min_connect_pool=1))
    assert settings.db.max_connect_pool == 5


def test_the_template_is_a_configuration_once_the_password_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_DB_PASSWORD", "pw")
    settings = load_settings(TEMPLATE, OperatorSettings)
    assert settings.node.keystore == Path("operator-keystore.json")
    assert settings.notices() == []


def test_the_template_shows_every_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is commented out must be right, too: with every key active the template still is a configuration."""
    monkeypatch.setenv("AOS_DB_PASSWORD", "pw")
    monkeypatch.setenv("AOS_SIGNER_KEY", KEY)
    lines = [_uncommented(line) for line in TEMPLATE.read_text().splitlines()]
    whole = "\n".join(line for line in lines if line.strip()) + "\n"
    keys = yaml.safe_load(whole)
    assert keys.pop("backends") == []  # its entries have a test of their own, in backends/
    for group in keys:
        kinds = get_args(OperatorSettings.model_fields[group].annotation)
        model = kinds[0] if kinds else OperatorSettings.model_fields[group].annotation
        assert set(keys[group]) == set(model.model_fields), group
    assert {*keys, "backends"} == set(OperatorSettings.model_fields)
    file = tmp_path / "config.yaml"
    file.write_text(whole.replace('"0x..."', f'"{OPERATOR.address}"').replace(" ws://", " wss://"))
    load_settings(file, OperatorSettings)


def _uncommented(line: str) -> str:
    """A line of the template with its key active; sentences stay comments."""
    bare = line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line
    return bare if re.match(r"[a-z_]+:( |$)", bare.strip()) else ""


def test_an_unknown_key_is_shown_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(changed("node", heartbeat_intervall=3), sort_keys=False))
    with pytest.raises(SettingsError) as caught:
        load_settings(file, OperatorSettings)
    [line] = caught.value.problems
    assert line.startswith(f"{file}:{1 + file.read_text().splitlines().index('  heartbeat_intervall: 3')}: ")
    assert "did you mean heartbeat_interval?" in line
    assert "allowed here: node_id, signer_key, " in line


class TestChain:
    RPC = "https://user:secretpw@h:8545/v2/secretpw"

    def test_it_is_read_whole(self) -> None:
        given = {
            "chain_rpc_url": self.RPC,
            "vrf_range_contract": DISPATCHER.lower(),
            "deployed_at": 7,
            "confirmations": 0,
        }
        chain = OperatorSettings.model_validate(changed("chain", **given)).chain
        assert chain.chain_rpc_url is not None
        assert chain.chain_rpc_url.get_secret_value() == self.RPC
        assert (chain.vrf_range_contract, chain.deployed_at, chain.confirmations) == (DISPATCHER, 7, 0)
        assert "secretpw" not in repr(chain)

    @pytest.mark.parametrize("alone", [{"chain_rpc_url": RPC}, {"vrf_range_contract": DISPATCHER}])
    def test_endpoint_and_contract_go_together(self, alone: dict[str, str]) -> None:
        said = problem(changed("chain", **alone))
        assert "chain.vrf_range_contract" in said
        assert "given together, or not at all" in said

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("chain_rpc_url", "ws://h:8546", "must be http://host:port"),
            ("chain_rpc_url", "h:8545", "must be http://host:port"),
            ("vrf_range_contract", "0x12", "is no address"),
            ("deployed_at", -1, "greater than or equal to 0"),
            ("confirmations", -1, "greater than or equal to 0"),
        ],
    )
    def test_what_cannot_be_is_named(self, key: str, value: object, said: str) -> None:
        whole = {"chain_rpc_url": self.RPC, "vrf_range_contract": DISPATCHER, key: value}
        told = problem(changed("chain", **whole))
        assert f"chain.{key}" in told
        assert said in told
        assert "secretpw" not in told


def test_tls_needs_an_address_of_tls_and_both_halves_of_a_certificate() -> None:
    files = {"ca": "ca.pem", "certificate": "own.pem", "key": "own-key.pem"}
    secure = changed("net", dispatcher_url="https://h:1", tls=files)
    assert OperatorSettings.model_validate(secure).net.tls is not None
    assert "net.tls: is for TLS, and dispatcher_url names none" in problem(changed("net", tls=files))
    for lacking in ("certificate", "key"):
        half = {name: file for name, file in files.items() if name != lacking}
        said = problem(changed("net", dispatcher_url="wss://h", tls=half))
        assert "net.tls.key: and certificate are given together, or not at all" in said


def test_the_worker_stands_alone_unless_settings_say_otherwise() -> None:
    """Where models register, the default address is nobody's word that there is a worker."""
    assert OperatorSettings.model_validate(MINIMAL).has_worker
    assert not OperatorSettings.model_validate({**MINIMAL, "registration": {}}).has_worker
    assert not OperatorSettings.model_validate({**MINIMAL, "backends": [{"kind": "ollama"}]}).has_worker
    named = {**MINIMAL, "net": {**MINIMAL["net"], "worker_url": "http://127.0.0.1:5005"}, "registration": {}}
    assert OperatorSettings.model_validate(named).has_worker


def test_models_register_on_dbc_s_port_and_never_with_an_enclave_s_operator() -> None:
    said = OperatorSettings.model_validate({**MINIMAL, "registration": {}}).registration
    assert said is not None
    assert said.port == 6000
    with pytest.raises(ValidationError, match="is for node_type opml"):
        OperatorSettings.model_validate(
            {**MINIMAL, "node": {**MINIMAL["node"], "node_type": "tee"}, "registration": {}}
        )
