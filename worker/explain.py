"""What would happen to the events of a file: how each is understood and ordered, and what every route makes of it.

And why, and which expectations it begins or meets. Behind `worker explain`. It needs no hub, store, sink or secret, and
changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from worker.decode import decode
from worker.events import BadEvent, Event, Message, PartitionId, UnixSeconds
from worker.expect import ExpectRule
from worker.route import Routes
from worker.terminal import printable

Row = dict[str, Any]
"""What `worker explain --json` prints for one element."""


_AS: Mapping[str, str] = {
    "after": "the first event, on which another must follow within {time}",
    "then": "what must follow within {time}",
    "events": "a sign of life, as there must be one every {time}",
}
"""What an event is to an expectation, by the key whose filter was asked."""


def explain(name: str, content: bytes, routes: Routes, expect: Sequence[ExpectRule] = ()) -> list[Row]:
    """One row per element of a file that holds one event, an array of events or a whole message body."""
    return [
        {
            "file": name,
            "index": index,
            **(_error(entry) if isinstance(entry, BadEvent) else _event(entry, routes, expect)),
        }
        for index, entry in enumerate(decode(_as_message(content)))
    ]


def _as_message(content: bytes) -> Message:
    return Message(PartitionId("0"), sequence_number=0, offset="0", enqueued_at=UnixSeconds(0.0), body=content)


def _error(bad: BadEvent) -> Row:
    return {"error": f"{bad.reason}: {bad.detail}"}


def _event(event: Event, routes: Routes, expect: Sequence[ExpectRule]) -> Row:
    row: Row = {
        "schema": event.schema.value,
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "order_key": {"kind": event.order_key.kind.value, "value": event.order_key.value},
        "routes": [
            {"route": verdict.route, "matched": verdict.matched, "reason": verdict.reason, "sinks": list(verdict.sinks)}
            for verdict in routes.explain(event)
        ],
        "expect": [aspect._asdict() for rule in expect for aspect in rule.explain(event)],
    }
    if event.order_defect is not None:
        row["order_defect"] = event.order_defect
    return row


def render(rows: Iterable[Row], console: Console) -> None:
    """The same for a reader at a terminal."""
    for row in rows:
        # soft_wrap: a line stays one line, whatever the terminal's width, so that it can be searched and copied.
        console.print(_as_text(row), soft_wrap=True)


def _as_text(row: Row) -> Text:
    text = Text.assemble((printable(f"{row['file']}[{row['index']}]"), "bold"))
    if "error" in row:
        return text.append(f"  {printable(row['error'])}", "bold red")
    text.append(f"  {printable(row['type'])}", "bold cyan").append(f"  ({row['schema']})\n")
    key = row["order_key"]
    order = key["kind"] if key["value"] is None else f"{key['kind']} {key['value']}"
    if defect := row.get("order_defect"):
        order += f" (its {defect} cannot be read)"
    for name, value in (*((name, row[name]) for name in ("id", "source", "subject")), ("order", f"by {order}")):
        text.append(f"  {name:<8}", "dim").append("(none)\n" if value is None else f"{printable(value)}\n")
    for verdict in row["routes"]:
        text.append_text(_verdict(verdict))
    for aspect in row["expect"]:
        text.append_text(_aspect(aspect))
    return text


def _verdict(verdict: Row) -> Text:
    text = _answer(verdict["matched"], verdict["route"])
    if verdict["matched"]:
        text.append(f" to {printable(', '.join(verdict['sinks']))}" if verdict["sinks"] else " to no further sink")
    return text.append(f": {printable(verdict['reason'])}\n", "dim")


def _aspect(aspect: Row) -> Text:
    text = _answer(aspect["matched"], f"expect {aspect['rule']}")
    text.append(f", as {_AS[aspect['part']].format(time=aspect['time'])}")
    return text.append(f": {printable(aspect['reason'])}\n", "dim")


def _answer(matched: bool, name: str) -> Text:  # noqa: FBT001 - an answer
    text = Text.assemble("  ", ("yes" if matched else "no ", "bold green" if matched else "yellow"))
    return text.append(f"  {printable(name)}", "bold")
