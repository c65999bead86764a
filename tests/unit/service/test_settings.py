from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr

from aos_service.errors import SettingsError
from aos_service.settings import load_settings


class Group(BaseModel, extra="forbid"):
    pass


class Database(Group):
    pg_db_url: SecretStr
    max_connect_pool: int = Field(30, ge=1)


class Model(Group):
    name: str
    path: Path


class Node(Group):
    node_id: str
    node_type: Literal["opml", "tee"] = "opml"
    ai_models: list[Model] = []
    proxy: Model | None = None


class Settings(Group):
    db: Database
    node: Node


GOOD = """\
db:
  pg_db_url: postgres://aos:5cff9c0e@localhost/operator
node:
  node_id: "0x1"
  ai_models:
    - name: demo
      path: models/demo.gguf
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def problems(file: Path, text: str | bytes) -> list[str]:
    """What is wrong with this text, each line without the file's name."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        load_settings(file, Settings)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(line.startswith(f"{file}:") for line in caught.value.problems)
    assert "5cff9c0e" not in str(caught.value)
    return [line.removeprefix(f"{file}:") for line in caught.value.problems]


def test_a_good_file(file: Path) -> None:
    file.write_text(GOOD)
    settings = load_settings(file, Settings)
    assert settings.db.pg_db_url.get_secret_value() == "postgres://aos:5cff9c0e@localhost/operator"
    assert settings.db.max_connect_pool == 30
    assert settings.node.ai_models[0].path == Path("models/demo.gguf")


def test_every_problem_is_told_at_its_line_in_the_order_of_the_file(file: Path) -> None:
    text = """\
# a comment
db:
  pg_db_ulr: postgres://aos:5cff9c0e@localhost/operator
  max_connect_pool: 0
node:
  node_type: opmll
  ai_models:
    - name: demo
      pth: x
  max_connect_pool: 5
chains: {}
"""
    assert problems(file, text) == [
        "2: db.pg_db_url: is required and missing",
        "3: db.pg_db_ulr: unknown key, did you mean pg_db_url?; allowed here: pg_db_url, max_connect_pool",
        "4: db.max_connect_pool: should be greater than or equal to 1",
        "5: node.node_id: is required and missing",
        "6: node.node_type: should be 'opml' or 'tee'",
        "8: node.ai_models[0].path: is required and missing",
        "9: node.ai_models[0].pth: unknown key, did you mean path?; allowed here: name, path",
        "10: node.max_connect_pool: unknown key, it belongs in group db; allowed here: node_id, node_type, "
        "ai_models, proxy",
        "11: chains: unknown key; allowed here: db, node",
    ]


def test_keys_inside_an_optional_group_are_known(file: Path) -> None:
    assert problems(file, GOOD + "  proxy: {name: x, path: y, port: 1}\n") == [
        "8: node.proxy.port: unknown key; allowed here: name, path"
    ]


def test_a_value_of_the_wrong_kind(file: Path) -> None:
    assert problems(file, "db: 5cff9c0e\nnode: [1]\n") == [
        "1: db: should be a valid dictionary or instance of Database",
        "2: node: should be a valid dictionary or instance of Node",
    ]


def test_a_key_given_twice(file: Path) -> None:
    assert problems(file, GOOD + "db:\n  pg_db_url: x\n") == ["8: db: given twice; first at line 1: keep one"]
    assert problems(file, GOOD + "  node_id: '0x2'\n") == [
        "8: node.node_id: given twice; first at line 4: keep one"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (" \n", " the file is empty: start from a template in docs/template"),
        ("# only a comment\n", "1: the file must hold groups of `key: value` lines"),
        ("- a\n- b\n", "1: the file must hold groups of `key: value` lines"),
        ("a: b: c\n", "1: not YAML: mapping values are not allowed here"),
        ("db:\n  a: 'x\n", "3: not YAML: found unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "2: not YAML: but found another document"),
        ("a: &x 1\nb: *x\n", "2: aliases (*name) are not used in settings: write the value out"),
        ("a: {}\nb:\n  <<: {c: 1}\n", "3: a key must be a plain word"),
        ("a: 1\n? [b]\n: 1\n", "2: a key must be a plain word"),
        ("a: 1\nb: !!python/object:os.system {}\n", "2: not YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/object:os.system'"),
        ("a: 1\nb: \x07\n", "2: character 0x7 may not stand in YAML"),
        ("a: 2024-13-01\n", "1: a value cannot be read: month must be in 1..12"),
        (b"a: 1\nb: \xff\n", "2: not UTF-8 text: save the file as UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_settings_file(file: Path, text: str | bytes, problem: str) -> None:
    assert problems(file, text) == [problem]


def test_a_missing_file(file: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file: give the path of a settings file"):
        load_settings(file, Settings)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, Settings)


def test_environment_variables_are_put_where_the_file_names_them(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_TEST_PASSWORD", "5cff9c0e")
    monkeypatch.setenv("AOS_TEST_POOL", "7")
    text = GOOD.replace("aos:5cff9c0e@", "aos:${AOS_TEST_PASSWORD}@").replace('"0x1"', "$${AOS_TEST_POOL}$$")
    file.write_text(text.replace("node:\n", "  max_connect_pool: ${AOS_TEST_POOL}\nnode:\n"))
    settings = load_settings(file, Settings)
    assert settings.db.pg_db_url.get_secret_value() == "postgres://aos:5cff9c0e@localhost/operator"
    assert settings.db.max_connect_pool == 7
    assert settings.node.node_id == "${AOS_TEST_POOL}$$"


def test_no_environment_variable_overrides_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB", "DB__MAX_CONNECT_POOL", "MAX_CONNECT_POOL", "db"):
        monkeypatch.setenv(name, "7")
    file.write_text(GOOD)
    assert load_settings(file, Settings).db.max_connect_pool == 30


def test_variables_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AOS_TEST_UNSET", raising=False)
    text = GOOD.replace("name: demo", "name: ${AOS TEST}").replace(
        "node:\n", "  max_connect_pool: ${AOS_TEST_UNSET}\nnode:\n"
    )
    assert problems(file, text) == [
        "3: db.max_connect_pool: environment variable AOS_TEST_UNSET is not set",
        "7: node.ai_models[0].name: names no environment variable; write ${NAME} with letters, digits and _, or "
        "$${ for ${",
    ]


def test_a_validator_s_own_words_are_shown(file: Path) -> None:
    class Odd(BaseModel, extra="forbid"):
        port: int = Field(json_schema_extra={})

    class Wrapped(Group):
        net: Odd

    file.write_text("net:\n  port: 5cff9c0e\n")
    with pytest.raises(SettingsError, match=r"config.yaml:2: net.port: should be a valid integer") as caught:
        load_settings(file, Wrapped)
    assert "5cff9c0e" not in str(caught.value)


@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_gives_settings_or_problems(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError) as caught:
        load_settings(file, Settings)
    assert caught.value.problems


keys = st.sampled_from(["db", "node", "pg_db_url", "node_id", "ai_models", "name", "x"])


@given(
    tree=st.recursive(
        st.sampled_from(["1", "'a'", "null", "'${AOS_TEST_UNSET}'", "1.5"]),
        lambda inner: (
            st.dictionaries(keys, inner, max_size=3).map(
                lambda d: "{" + ", ".join(f"{k}: {v}" for k, v in d.items()) + "}"
            )
            | st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        ),
    )
)
def test_any_tree_in_place_of_a_group_is_told_at_its_line(
    tmp_path_factory: pytest.TempPathFactory, tree: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "tree.yaml"
    file.write_text(f"# first\ndb: {tree}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file, Settings)
    where = [line.removeprefix(f"{file}:") for line in caught.value.problems]
    assert all(
        line.startswith(("1: ", "2: db")) or line == "2: node: is required and missing" for line in where
    )
