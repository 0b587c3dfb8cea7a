"""What a delivery looks like in Teams: an Adaptive Card, inside the message that a workflow of Power Automate takes.

Pure, and the same bytes at every attempt. Built as data; all that comes from an event is escaped. It fits into what
Teams takes whatever the event holds: the longest texts are cut first, a digest lists what there is room for, and the
card says what it leaves out. Card version 1.4: workflows show nothing of a later one.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from worker.about import Severity, moment
from worker.notice import Entry, Notice
from worker.sinks.markdown import escaped, link, usable

_Json = dict[str, Any]

_MESSAGE_BYTES = 20 * 1024
_WRITTEN_AGAIN_BYTES = 27 * 1024
"""A workflow writes the message into another one, with every quote and backslash escaped, and Teams takes 28 KB of
that: more is refused when nobody listens any more. One KB is left for what the workflow puts around it."""

_TEXT_CHARACTERS = 800
_LEAST_CHARACTERS = 24
"""Short enough for any number of texts that a card has, whatever is to be escaped in them."""
_ENTRY_CHARACTERS = 120
_ENTRIES = 40
"""More than this is not read in a chat."""
_FACTS = 24
_KINDS = 10

_WORDS = {
    Severity.INFO: "Information",
    Severity.SUCCESS: "Success",
    Severity.WARNING: "Warning",
    Severity.ERROR: "Error",
}
_COLOURS = {
    Severity.INFO: "Default",
    Severity.SUCCESS: "Good",
    Severity.WARNING: "Warning",
    Severity.ERROR: "Attention",
}
_STYLES = {
    Severity.INFO: "emphasis",
    Severity.SUCCESS: "good",
    Severity.WARNING: "warning",
    Severity.ERROR: "attention",
}

_LONG_WORD = re.compile(r"[^\s-]{21}")


def message_of(notice: Notice, *, key: str) -> bytes:
    """The message as JSON. `key` stands beside the card, so that a workflow of one's own can tell a repetition.

    Of a digest it lists the gravest events, earlier ones first among equals, in the order of the events.
    """
    room = 0.5 if notice.entries else 1.0  # the list of a digest has the other half, at least
    characters = _most(
        lambda most: _fits(_Card(notice, key=key, characters=most).message(()), room),
        at_least=_LEAST_CHARACTERS,
        at_most=_TEXT_CHARACTERS,
    )
    card = _Card(notice, key=key, characters=characters)
    gravest = sorted(range(len(notice.entries)), key=lambda index: -notice.entries[index].severity.rank)

    def with_list(number: int) -> bytes:
        return card.message([notice.entries[index] for index in sorted(gravest[:number])])

    number = _most(lambda most: _fits(with_list(most)), at_least=0, at_most=min(len(notice.entries), _ENTRIES))
    return with_list(number)


def _most(fits: Callable[[int], bool], *, at_least: int, at_most: int) -> int:
    """The greatest number that fits, given that `at_least` does and that more of anything takes more room."""
    low, high = at_least, at_most
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(message: bytes, room: float = 1.0) -> bool:
    return len(message) <= _MESSAGE_BYTES * room and written_again(message) <= _WRITTEN_AGAIN_BYTES * room


def written_again(message: bytes) -> int:
    """How many bytes the message takes as a text inside another one."""
    return len(orjson.dumps(message.decode()))


class _Card:
    """One card in the making: texts of the event go through `_text`, which knows how long they may be."""

    def __init__(self, notice: Notice, *, key: str, characters: int) -> None:
        self._notice = notice
        self._key = key
        self._characters = characters
        self._cut = False
        self._link = notice.link if notice.link is not None and usable(notice.link.url) else None

    def message(self, listed: Sequence[Entry]) -> bytes:
        """The whole message, with these of a digest's entries."""
        self._cut = False
        notice = self._notice
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": {"width": "Full"},
            "fallbackText": f"{_WORDS[notice.severity]}: {self._text(notice.title)}",
            "body": [
                self._heading(),
                _text_block(self._text(notice.sentence)),
                *(_text_block(self._text(remark), color="Warning", weight="Bolder") for remark in notice.remarks),
                *self._facts(),
                *self._list(listed),
                *self._end(),
            ],
        }
        if self._link is not None:
            card["actions"] = [{"type": "Action.OpenUrl", "title": self._link.text, "url": self._link.url}]
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return orjson.dumps({"type": "message", "eventKey": self._key, "attachments": [attachment]})

    def _heading(self) -> _Json:
        severity = self._notice.severity
        colour = _COLOURS[severity]
        return {
            "type": "Container",
            "style": _STYLES[severity],
            "bleed": True,
            "items": [
                _text_block(_WORDS[severity], size="Small", weight="Bolder", color=colour),
                _text_block(
                    self._text(self._notice.title),
                    size="Large",
                    weight="Bolder",
                    color=colour,
                    spacing="None",
                ),
            ],
        }

    def _facts(self) -> Iterable[_Json]:
        """In two columns, and below them those that would not break to fit into a narrow one."""
        named = self._chosen()
        short = [(name, value) for name, value in named if not _LONG_WORD.search(f"{name} {value}")]
        if short:
            yield {"type": "FactSet", "facts": [{"title": self._text(n), "value": self._text(v)} for n, v in short]}
        for name, value in named:
            if (name, value) not in short:
                yield _text_block(f"**{self._text(name)}:** {self._text(value)}", size="Small", spacing="Small")

    def _chosen(self) -> list[tuple[str, str]]:
        """As the notice has them, which begins with the kinds of a digest; of many kinds the most frequent."""
        kinds = self._notice.kinds
        facts = [*self._notice.facts[: len(kinds)][:_KINDS]]
        if rest := kinds[_KINDS:]:
            facts.append(("Other kinds", f"{sum(kind.number for kind in rest):,} of {len(rest):,} other kinds"))
        others = self._notice.facts[len(kinds) :]
        facts += others[:_FACTS]
        if more := len(others[_FACTS:]):
            facts.append(("More", f"{more:,} more, not shown"))
        return facts

    def _list(self, listed: Sequence[Entry]) -> Iterable[_Json]:
        entries = self._notice.entries
        for entry in listed:
            yield self._entry(entry)
        if more := len(entries) - len(listed):
            which = " The gravest are listed." if listed else ""
            yield _text_block(f"… and {more:,} more, not listed here.{which}", isSubtle=True)

    def _entry(self, entry: Entry) -> _Json:
        """Its title, linked, and under it how grave it is, when it was, and what the worker knows of its order."""
        title = self._shortened(entry.title or entry.type or "(no title)", _ENTRY_CHARACTERS)
        remarks = [_WORDS[entry.severity], escaped(moment(entry.time))]
        if entry.late_by_ms is not None:
            remarks.append(f"late by {entry.late_by_ms / 1000:,g} s")
        if entry.superseded:
            remarks.append("superseded")
        return {
            "type": "Container",
            "separator": True,
            "items": [
                _text_block(link(title, entry.url)),
                _text_block(
                    " · ".join(filter(None, remarks)), size="Small", color=_COLOURS[entry.severity], spacing="None"
                ),
            ],
        }

    def _end(self) -> Iterable[_Json]:
        """What is said last: that something was cut, and which event this is where no fact says it."""
        if self._cut:
            whole = " The button below leads to the whole." if self._link else ""
            yield _text_block(f"Texts were cut to fit into a message.{whole}", isSubtle=True)
        if all(name != "Event" for name, _ in self._notice.facts):
            yield _text_block(f"Event {self._text(self._notice.event_id)}", size="Small", isSubtle=True)

    def _text(self, text: str) -> str:
        return escaped(self._shortened(text, self._characters))

    def _shortened(self, text: str, characters: int) -> str:
        characters = min(characters, self._characters)
        if len(text) <= characters:
            return text
        self._cut = True
        return f"{text[: characters - 1].rstrip()}…"


def _text_block(text: str, **looks: Any) -> _Json:
    return {"type": "TextBlock", "text": text, "wrap": True, **looks}
