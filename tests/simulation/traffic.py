"""What producers send in one run: in order or not, late, twice, in arrays, other data under one id, rubbish."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import orjson

from tests.simulation.history import Element

TOPIC = "/subscriptions/s/workspaces/ws"
SECONDS = 25.0
"""How long producers send."""
PLAIN, IDEMPOTENT, LEDGER, DIGEST = "plain", "idempotent", "ledger", "digest"
MISSED = (PLAIN, IDEMPOTENT)
"""Who is told of a missed expectation."""
BAD = ("",)
"""The sinks of what cannot be decoded: a dead letter without one."""
WITHIN_SECONDS = 5.0
"""How long after a first event its second must have happened."""
SILENT_SECONDS = 7.0
"""How long the source may be silent."""
LIFE = ("Sim.First", "Sim.Second", "Sim.FirstElsewhere", "Sim.SecondElsewhere")
"""What counts as a sign of life of it."""
_ROUTED = {"Sim.All": (PLAIN, IDEMPOTENT), "Sim.Some": (LEDGER,), "Sim.Told": (DIGEST,), "Sim.None": ()}


@dataclass(frozen=True, slots=True)
class Sending:
    """One message, and when it reaches the hub."""

    time: float
    partition: str
    body: bytes
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """One element on its way into a message."""

    time: float
    partition: str
    json: Any
    element: Element


def sendings(random: Random, *, partitions: int, starts_at: float) -> list[Sending]:
    """All messages of a run, in the order of their times; `starts_at`: wall clock."""
    pieces: list[_Piece] = []
    for number in range(random.randint(6, 10)):
        pieces += _subject(random, f"s{number}", str(number % partitions))
    for number in range(random.randint(5, 9)):
        pieces += _watched(random, f"w{number}", str(number % partitions), starts_at)
    for number in range(random.randint(4, 8)):
        pieces += _watched_elsewhere(random, f"x{number}", partitions, starts_at)
    for number in range(random.randint(0, 3)):
        pieces.append(_rubbish(random, f"bad{number}", str(random.randrange(partitions))))
    pieces.sort(key=lambda piece: piece.time)
    sent = _messages(random, pieces, partitions) + _odd_messages(random, partitions)
    return sorted(sent, key=lambda sending: sending.time)


def _subject(random: Random, name: str, partition: str) -> list[_Piece]:
    kind = random.choice(("sequencer", "sequencer", "time"))
    types = random.choices(list(_ROUTED), weights=(5, 2, 3, 1), k=10)
    time, pieces = random.uniform(0, 3), list[_Piece]()
    for order in range(random.randint(4, 9)):
        time += random.expovariate(1 / 2.5)
        event_type = types[order]
        element = Element(f"{name}-{order}", name, kind, order, _ROUTED[event_type], value=_value(order))
        json = _event(name, kind, order, event_type)
        pieces.append(_Piece(_arrival(random, time), partition, json, element))
        if random.random() < 0.15:
            again = pieces[-1].time + random.choice((0.0, 0.05, 1.0, 5.0, 10.0))
            pieces.append(replace(pieces[-1], time=again, element=replace(element, copy=True)))
        if random.random() < 0.04 and DIGEST not in element.sinks:  # which is told of them by their ids
            other = replace(element, uid=f"{element.uid}-other")
            body = {**json, "data": {**json["data"], "content": "other"}}
            pieces.append(_Piece(pieces[-1].time + random.uniform(0.01, 2), partition, body, other))
    return [piece for piece in pieces if piece.time < SECONDS]


def _watched(random: Random, name: str, partition: str, starts_at: float) -> list[_Piece]:
    """A first event, and often a second, that happens in time or too late, and may come late or twice."""
    began = random.uniform(0, SECONDS - 8)
    times = [("first", began)]
    if random.random() < 0.75:
        lasts = random.choice((0.2, 1.0, 3.0, 4.5, WITHIN_SECONDS - 0.001, WITHIN_SECONDS + 0.1, 7.0))
        times.append(("second", began + lasts))
    pieces = []
    for order, (role, time) in enumerate(times):
        sinks = (PLAIN,) if role == "first" else ()
        happened = round(starts_at + time, 3)
        element = Element(f"{name}-{role}", name, "time", order, sinks, expects=role, happened=happened)
        moment = f"{datetime.fromtimestamp(happened, UTC):%Y-%m-%dT%H:%M:%S.%f}0Z"
        json = {**_event(name, "time", order, f"Sim.{role.title()}"), "id": element.uid, "eventTime": moment}
        pieces.append(_Piece(_arrival(random, time), partition, json, element))
        if random.random() < 0.2:
            again = pieces[-1].time + random.choice((0.0, 1.0, 6.0))
            pieces.append(replace(pieces[-1], time=again, element=replace(element, copy=True)))
    return [piece for piece in pieces if piece.time < SECONDS]


def _watched_elsewhere(random: Random, name: str, partitions: int, starts_at: float) -> list[_Piece]:
    """The same, with the two on subjects of their own, often on two partitions."""
    pieces = []
    partition = {role: str(random.randrange(partitions)) for role in ("first", "second")}
    for piece in _watched(random, name, "", starts_at):
        role = piece.element.expects
        subject = f"{name}-{role}"
        element = replace(piece.element, subject=subject, order=0, pair=name)
        json = {**piece.json, "subject": subject, "eventType": f"Sim.{role.title()}Elsewhere", "data": {"pair": name}}
        pieces.append(replace(piece, partition=partition[role], json=json, element=element))
    return pieces


def _arrival(random: Random, time: float) -> float:
    """Event Grid sends again what was not taken: most come at once, some later, few much later."""
    return time + random.choice((0.0, 0.0, 0.0, 0.0, 0.05, 0.5, 0.9, 1.5, 4.0, 9.0))


def _event(subject: str, kind: str, order: int, event_type: str) -> dict[str, Any]:
    return {
        "id": f"{subject}-{order}",
        "topic": TOPIC,
        "subject": subject,
        "eventType": event_type,
        "eventTime": f"2026-01-01T00:00:{order:02}.0000000Z" if kind == "time" else "2026-01-01T00:00:00Z",
        "data": {"etag": _value(order)} | ({"sequencer": f"{order:x}"} if kind == "sequencer" else {}),
        "dataVersion": "1",
    }


def _value(order: int) -> str:
    """Two in a row have the same, and it comes back."""
    return "AB"[order // 2 % 2]


def _rubbish(random: Random, name: str, partition: str) -> _Piece:
    json = random.choice(({"no": "envelope"}, {"eventType": "Sim.All", "id": ""}, 7, "text", {"specversion": "9"}))
    element = Element(name, "", "bad", 0, BAD)
    return _Piece(random.uniform(0, SECONDS), partition, json, element)


def _messages(random: Random, pieces: list[_Piece], partitions: int) -> list[Sending]:
    """Alone, or several of one partition in an array."""
    sent: list[Sending] = []
    for partition in map(str, range(partitions)):
        waiting: list[_Piece] = []
        room = 1
        for piece in (each for each in pieces if each.partition == partition):
            waiting.append(piece)
            if len(waiting) >= room:
                sent.append(_message(random, waiting))
                waiting, room = [], random.choice((1, 1, 1, 1, 2, 3))
        if waiting:
            sent.append(_message(random, waiting))
    return sent


def _message(random: Random, pieces: list[_Piece]) -> Sending:
    json = [piece.json for piece in pieces]
    alone = len(json) == 1 and isinstance(json[0], dict) and random.random() < 0.5
    body = orjson.dumps(json[0] if alone else json)
    return Sending(pieces[-1].time, pieces[0].partition, body, tuple(piece.element for piece in pieces))


def _odd_messages(random: Random, partitions: int) -> list[Sending]:
    """No JSON at all, and no element at all."""
    sent = []
    if random.random() < 0.3:
        element = Element("torn", "", "bad", 0, BAD)
        sent.append(Sending(random.uniform(0, SECONDS), str(random.randrange(partitions)), b'[{"id": "x', (element,)))
    if random.random() < 0.3:
        sent.append(Sending(random.uniform(0, SECONDS), str(random.randrange(partitions)), b"[]", ()))
    return sent
