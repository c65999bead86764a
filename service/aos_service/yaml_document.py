"""YAML with line numbers, for settings files: plain data and where each key stands."""

from collections.abc import Hashable
from typing import Protocol, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]


class YamlSyntaxError(Exception):
    """The text is not YAML that a settings file may hold; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class YamlDocument:
    """One YAML mapping. `duplicates` lists every repeated key with the line of the repetition."""

    def __init__(
        self, data: dict[Hashable, object], lines: dict[KeyPath, int], duplicates: list[tuple[KeyPath, int]]
    ) -> None:
        self.data = data
        self.duplicates = duplicates
        self._lines = lines

    def line(self, at: KeyPath) -> int:
        """The line of the key or list item at `at`, or of its nearest group that the file has."""
        return self._lines[self.known(at)]

    def known(self, at: KeyPath) -> KeyPath:
        """The longest beginning of `at` that stands in the file."""
        while at not in self._lines:
            at = at[:-1]
        return at


def parse_yaml(text: str) -> YamlDocument:
    """Read one mapping.

    Raises:
        YamlSyntaxError: for text that is no YAML, no mapping, or uses aliases, merges, tags or a second
            document.
    """
    try:
        _refuse_aliases(text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise YamlSyntaxError("the file must hold groups of `key: value` lines", 1)
        lines: dict[KeyPath, int] = {(): root.start_mark.line + 1}
        duplicates: list[tuple[KeyPath, int]] = []
        _index(root, (), lines, duplicates)
        return YamlDocument(loader.construct_document(root), lines, duplicates)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlSyntaxError(f"not YAML: {error.problem or error.context}", _line(mark)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlSyntaxError(f"character {error.character:#x} may not stand in YAML", line) from error
    except ValueError as error:  # an impossible date such as 2024-13-01
        raise YamlSyntaxError(f"a value cannot be read: {error}", 1) from error


class _Mark(Protocol):
    @property
    def line(self) -> int: ...


def _line(mark: _Mark | None) -> int:
    return mark.line + 1 if mark else 1


def _refuse_aliases(text: str) -> None:
    """Settings need no aliases, and nested ones can grow without bound."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise YamlSyntaxError(
                "aliases (*name) are not used in settings: write the value out", _line(event.start_mark)
            )


def _index(
    node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], duplicates: list[tuple[KeyPath, int]]
) -> None:
    """Record the line of every key and item below `node`, and every key that its mapping already has."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*at, index] = item.start_mark.line + 1
            _index(item, (*at, index), lines, duplicates)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise YamlSyntaxError("a key must be a plain word", line)
            below = (*at, key.value)
            if below in lines:
                duplicates.append((below, line))
            else:
                lines[below] = line
                _index(value, below, lines, duplicates)
