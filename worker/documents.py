"""One YAML file as plain values, each with the line and column it stands at.

Stricter than YAML where YAML surprises: a key stands once, `no` and `on` are text, times stay text, tags are refused,
and a small file cannot grow into a large value. Anchors, aliases and `<<` work. It does not know what values mean.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from worker.mistakes import Location, Mistake, Mistakes, shown, value_at

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""After aliases are followed: nine lines of them can stand for a billion values."""

# The parser in C where PyYAML was built with it: fifty times as fast. Only its events are used: its composer recurses
# without a limit.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TOO_DEEP = f"is nested more than {MAX_DEPTH} deep; is it the right file?"
_TEXT_TAG = "tag:yaml.org,2002:str"


class Mark(NamedTuple):
    """A place in a file, counted from 1 as editors do."""

    line: int
    column: int
    """In characters."""


class _Entry(NamedTuple):
    mark: Mark
    """Of the key, of an item's first word, or of the alias: the anchored value may stand elsewhere."""
    node: "_Node"


_TOP = Mark(1, 1)


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


@dataclass(slots=True)
class _Node:
    value: str | float | bool | dict[str, _Entry] | list[_Entry] | None
    size: int = 1
    """How many values it stands for, and `height` how deep they are nested: both with aliases followed."""
    height: int = 0

    @classmethod
    def around(cls, value: "dict[str, _Entry] | list[_Entry]") -> "_Node":
        nodes = [entry.node for entry in (value.values() if isinstance(value, dict) else value)]
        return cls(value, 1 + sum(node.size for node in nodes), 1 + max((node.height for node in nodes), default=0))

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.node.plain() for entry in self.value]
        return self.value

    def child(self, part: str | int) -> _Entry | None:
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: its values, where they stand, and what was wrong with its form."""

    file: Path
    values: Any
    """Dicts, lists, text, numbers, booleans and None; None for a file without content."""
    mistakes: tuple[Mistake, ...]
    """Keys given twice and the like: the values are usable, the file is not accepted."""
    _root: _Node

    def mark(self, location: Location) -> Mark:
        """Where a value stands; for one that is not there, the nearest section around it."""
        mark, node = _TOP, self._root
        for part in location:
            entry = node.child(part)
            if entry is None:
                break
            mark, node = entry
        return mark

    def line(self, location: Location) -> int:
        """The line of the same."""
        return self.mark(location).line

    def mistake(self, location: Location, message: str) -> Mistake:
        """A mistake at a value of this file."""
        line, column = self.mark(location)
        return Mistake(self.file, line, message, column)

    def sections(self, key: str) -> Iterator[tuple[Location, Mapping[str, Any]]]:
        """The sections in the list behind a key, with their places; an item that is no section counts as empty."""
        items = value_at(self.values, (key,))
        for index, item in enumerate(items if isinstance(items, list) else []):
            yield (key, index), item if isinstance(item, dict) else {}


def read_document(file: Path) -> Document:
    """Reads a YAML file. Raises Mistakes where it cannot be read at all."""
    text = _text(file)
    return _Reader(file, iter(yaml.parse(text, Loader=_Loader))).document(text)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Mistakes([Mistake(file, None, "there is no such file; name another, or create it")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is no path"
        raise Mistakes([Mistake(file, None, f"cannot be read: {reason}")]) from None
    if len(raw) > MAX_BYTES:
        raise Mistakes([Mistake(file, None, f"is larger than {MAX_BYTES:,} bytes; is it the right file?")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Up to here it is UTF-8, so that its characters can be counted.
        line, column = _mark_at(raw[: error.start].decode("utf-8-sig"))
        raise Mistakes([Mistake(file, line, "a character is not UTF-8; save the file as UTF-8", column)]) from None
    if found := _UNPRINTABLE.search(text):
        line, column = _mark_at(text[: found.start()])
        raise Mistakes([Mistake(file, line, f"a control character (U+{ord(found[0]):04X}); remove it", column)])
    return text


def _mark_at(before: str) -> Mark:
    """The place after this text."""
    return Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


@dataclass(slots=True)
class _Reader:
    """Builds the values of one file from the parser's events."""

    file: Path
    events: Iterator[Any]
    mistakes: list[Mistake] = field(default_factory=list)
    anchors: dict[str, _Node] = field(default_factory=dict)

    def document(self, text: str) -> Document:
        root = _Node(None)
        try:
            next(self.events)  # the start of the stream
            if isinstance(next(self.events), yaml.DocumentStartEvent):
                root = self._node(next(self.events), depth=0)
                next(self.events)  # the end of the document
                if isinstance(end := next(self.events), yaml.DocumentStartEvent):
                    self._wrong(end, "a second document begins; keep one, without a line ---")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._stop(Mark(mark.line + 1, mark.column + 1) if mark else None, _syntax(text, error))
        return Document(self.file, root.plain(), tuple(self.mistakes), root)

    def _wrong(self, event: Any, message: str) -> None:
        line, column = _mark(event)
        self.mistakes.append(Mistake(self.file, line, message, column))

    def _stop(self, mark: Mark | None, message: str) -> NoReturn:
        line, column = mark or (None, None)
        raise Mistakes([*self.mistakes, Mistake(self.file, line, message, column)])

    def _node(self, event: Any, *, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        mark = _mark(event)
        if depth > MAX_DEPTH:
            self._stop(mark, _TOO_DEEP)
        if event.tag is not None and event.tag != _TEXT_TAG:
            self._wrong(event, "tags (words that begin with !) are not supported; write the plain value, or quote it")
        node = self._untagged(event, depth)
        if node.size > MAX_VALUES:
            self._stop(mark, f"stands for more than {MAX_VALUES:,} values; use fewer aliases")
        if node.height > MAX_DEPTH:
            self._stop(mark, _TOO_DEEP)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _untagged(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(depth)
        return _Node(self._scalar(event))

    def _alias(self, event: Any) -> _Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            self._wrong(event, f"the alias *{shown(event.anchor)} has no finished anchor & above it")
        return node or _Node(None)

    def _scalar(self, event: Any) -> str | float | bool | None:
        text = self._characters(event)
        if event.style or event.tag:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) and abs(float(text)) != float("inf") else text

    def _characters(self, event: Any) -> str:
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):  # which the parser in C refuses itself
            self._stop(_mark(event), "is not valid YAML: half of a surrogate pair; write the character")
        return text

    def _sequence(self, depth: int) -> _Node:
        items: list[_Entry] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(_Entry(_mark(event), self._node(event, depth=depth + 1)))
        return _Node.around(items)

    def _mapping(self, depth: int) -> _Node:
        entries: dict[str, _Entry] = {}
        merged: list[_Node] = []
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, depth)
            value = next(self.events)
            node = self._node(value, depth=depth + 1)
            if key == "<<" and not event.style:
                merged += self._merged(value, node)
            elif key in entries:
                first = entries[key].mark.line
                self._wrong(event, f"{shown(key)} stands here again (first on line {first}); keep one of the two")
            elif key is not None:
                entries[key] = _Entry(_mark(event), node)
        for source in merged:
            if isinstance(source.value, dict):
                entries = {**source.value, **entries}
        return _Node.around(entries)

    def _key(self, event: Any, depth: int) -> str | None:
        if isinstance(event, yaml.ScalarEvent):
            return self._characters(event)
        self._wrong(event, "a key must be plain text; quote a value that begins with [ { or *")
        self._node(event, depth=depth + 1)
        return None

    def _merged(self, event: Any, node: _Node) -> list[_Node]:
        """What `<<` brings in, the weakest last: of several, the first named wins."""
        sources = [entry.node for entry in node.value] if isinstance(node.value, list) else [node]
        if not all(isinstance(source.value, dict) for source in sources):
            self._wrong(event, "<< takes an alias of a section, or a list of such aliases")
        return sources


def _syntax(text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    problem = error.problem or "cannot be understood"
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if re.match(r" *\t", line):
        return "a tab in the indentation; use spaces"
    if "mapping values are not allowed" in problem:
        return "a second ': ' on one line, or a wrong indentation; put the value in quotes, or line the key up"
    if "expected key" in problem or "expected <block end>" in problem:
        if mark and line[mark.column : mark.column + 1] == ",":  # pasted from JSON, with what stood behind it
            return "a comma after the end of a value; remove it"
        return "the indentation does not fit the lines above; line keys of one section up"
    if "nesting depth" in problem:  # newer parsers have a limit of their own, and meet it before ours is looked at
        return _TOO_DEEP
    context = f" {error.context}" if error.context else ""
    return f"is not valid YAML{context}: {problem}; check quotes, brackets and indentation"
