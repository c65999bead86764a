"""Settings from a YAML file: strict, with every mistake reported at once, at its line.

    class Settings(BaseModel, extra="forbid"):
        db: DatabaseSettings

    settings = load_settings(Path("config.yaml"), Settings)

Nothing overrides the file silently. A string may name environment variables, `${NAME}`, so that secrets can
stay out of the file; `$${NAME}` stands for the text `${NAME}` itself.
"""

import os
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from aos_service.errors import SettingsError
from aos_service.settings_problems import Problem, explain
from aos_service.yaml_document import KeyPath, YamlDocument, YamlSyntaxError, parse_yaml

M = TypeVar("M", bound=BaseModel)

_VARIABLE = re.compile(r"\$(\$\{)|\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_settings(path: Path, model: type[M]) -> M:
    """Read `path` and validate it as `model`; every model in it should have `extra="forbid"`.

    Raises:
        SettingsError: with one line a problem, in the file's order; no line shows a value from the file.
    """
    try:
        document = parse_yaml(_read(path))
    except YamlSyntaxError as error:
        raise SettingsError([f"{path}:{error.line}: {error}"]) from error
    problems = [
        Problem(at, line, f"given twice; first at line {document.line(at)}: keep one")
        for at, line in document.duplicates
    ]
    data = _with_environment(document.data, (), document, problems)
    try:
        settings = model.model_validate(data)
    except ValidationError as error:
        reported = {problem.at for problem in problems}
        problems += [problem for problem in explain(error, model, document) if problem.at not in reported]
    if problems:
        raise SettingsError([problem.render(path) for problem in sorted(problems, key=lambda p: p.line)])
    return settings


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError([f"{path}: there is no such file: give the path of a settings file"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: not UTF-8 text: save the file as UTF-8"]) from error
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from error
    if not text.strip():
        raise SettingsError([f"{path}: the file is empty: start from a template in docs/template"])
    return text


def _with_environment(value: object, at: KeyPath, document: YamlDocument, problems: list[Problem]) -> object:
    """A copy of `value` with every `${NAME}` replaced; what cannot be joins `problems`."""
    if isinstance(value, dict):
        return {
            key: _with_environment(item, (*at, str(key)), document, problems) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_environment(item, (*at, index), document, problems) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        name = match[2]
        if not _NAME.fullmatch(name):
            what = "names no environment variable; write ${NAME} with letters, digits and _, or $${ for ${"
        elif name not in os.environ:
            what = f"environment variable {name} is not set"
        else:
            return os.environ[name]
        problems.append(Problem(at, document.line(at), what))
        return ""

    return _VARIABLE.sub(replace, value)
