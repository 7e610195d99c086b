"""Reading a YAML file of a flow into its document; problems have the line of their key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flowpod.errors import Problem, Severity
from flowpod.jsonable import encodable

Key = tuple[str | int, ...]
Document = TypeVar("Document", bound=BaseModel)

NOT_A_MAPPING = "expected a mapping of keys to values"
NOT_TEXT = "a key in this mapping is not text; quote numbers, yes, no, on and off"
_MAX_VALUES = 100_000
_SURROGATE = r"half of a surrogate pair, such as \ud83d, is not text; write the character itself"


def content_of(text: str) -> Any:
    """Return the content of a YAML text. Raises yaml.YAMLError, and RecursionError for text that is nested too deep."""
    return _read(text)[0]


def _read(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the content of a YAML text and its nodes; raises as `content_of`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_count(root)
        return yaml.safe_load(text), root
    except ValueError as error:  # such as an invalid date
        raise yaml.YAMLError(str(error)) from error
    except (AttributeError, LookupError, OverflowError, TypeError) as error:  # PyYAML does not catch these itself
        raise yaml.YAMLError("a value does not fit its tag, such as !!int, or has an invalid escape") from error


def _check_count(root: yaml.Node | None) -> None:
    """Raise yaml.YAMLError for too many values, which a few lines of aliases can make."""
    waiting, count = [root], 1
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.CollectionNode):
            continue
        items = node.value if isinstance(node, yaml.SequenceNode) else [item for pair in node.value for item in pair]
        waiting += items
        count += len(items)
        if count > _MAX_VALUES:
            raise yaml.YAMLError(f"more than {_MAX_VALUES} values, each counted as often as an alias repeats it")


class Source:
    """A YAML file: its content, the line of each key, and the problems found so far."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.name = name or path.name
        self.problems: list[Problem] = []
        self.content: Any = None
        self._lines: dict[Key, int] = {}
        self._moved: dict[Key, Key] = {}
        try:
            text = path.read_text(encoding="utf-8")
            content, root = _read(text)
            if root is not None:
                self._index(root, ())
            self.content = content
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
            line = None if mark is None else mark.line + 1
            self.problems.append(Problem(self.name, "", f"not valid YAML: {reason}", line))
        except UnicodeDecodeError:
            self.problems.append(Problem(self.name, "", "not UTF-8 text"))
        except RecursionError:
            self.problems.append(Problem(self.name, "", "not valid YAML: nested too deep"))
        except OSError as error:
            self.problems.append(Problem(self.name, "", f"cannot be read: {error.strerror}"))

    def add(self, key: Key, message: str, severity: Severity = "error") -> None:
        """Add a problem with the value at `key`."""
        key = self._origin(key)
        line = next((self._lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self._lines), None)
        self.problems.append(Problem(self.name, _dotted(key), message, line, severity))

    def move(self, to: Key, origin: Key) -> None:
        """Report problems with the content read at `to` at the key `origin`, which it has in the file."""
        self._moved[to] = origin

    def _origin(self, key: Key) -> Key:
        for to, origin in self._moved.items():
            inner = key[len(to) :]
            if key[: len(to)] == to and (*origin, *inner[:1]) in self._lines:
                return (*origin, *inner)
        return key

    def read(self, kind: type[Document], content: Any, at: Key = ()) -> Document | None:
        """Return `content`, found at the key `at`, as a document; None with all problems added if it is invalid."""
        try:
            document = kind.model_validate(content)
        except ValidationError as error:
            for detail in error.errors():
                location = tuple(part for part in detail["loc"] if part != "function-before")  # pydantic's validator
                if location[-1:] == ("[key]",):
                    self.add((*at, *location[:-2]), NOT_TEXT)
                elif detail["type"] == "invalid_key":
                    self.add((*at, *location[:-1]), NOT_TEXT)
                else:
                    self.add((*at, *location), _plain_message(detail["type"], detail["msg"]))
            return None
        for key in _unknown_keys(document, at):
            self.add(key, "unknown key, ignored", "warning")
        return document

    def _index(self, node: yaml.Node, key: Key) -> None:
        self._lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode) and encodable(node.value) != node.value:
            self.add(key, _SURROGATE)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for name, value in node.value:
                text = str(name.value)
                if encodable(text) != text:
                    self.add(key, _SURROGATE)
                    continue
                inner = (*key, text)
                self._lines[inner] = name.start_mark.line + 1
                if text in seen:
                    self.add(inner, "duplicate key; YAML would use the last one")
                seen.add(text)
                self._index(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._index(value, (*key, index))


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _plain_message(kind: str, message: str) -> str:
    if kind == "missing":
        return "this key is required"
    if kind in ("model_type", "dict_type"):
        return NOT_A_MAPPING
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _unknown_keys(part: BaseModel, key: Key) -> Iterator[Key]:
    for name in part.model_extra or {}:
        yield (*key, name)
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        inner = (*key, field.alias or name)
        if isinstance(value, BaseModel):
            yield from _unknown_keys(value, inner)
        elif isinstance(value, dict):
            for item_name, item in value.items():
                if isinstance(item, BaseModel):
                    yield from _unknown_keys(item, (*inner, item_name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _unknown_keys(item, (*inner, index))
