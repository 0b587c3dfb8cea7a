"""Who is told together: the groups of one partition, for each sink, and the digests that are made of them.

An event *joins* a group instead of being delivered alone. When a group is due it is *closed*: what is in it becomes a
digest, whose members never change. A digest is *unsent* until its destination has it (or it is a dead letter), and
while a sink has unsent ones nothing more is closed for it: what comes meanwhile comes together.

Order: the digests of a sink are sent one after the other, and a digest takes along what was held of its events'
subjects in other groups, so that a later event never comes before an earlier one. Bounded: so many events are held for
a sink, and more have to wait; so many groups are remembered, and the events of more are told together.

Pure: the time is passed in. When a group is due says `quiet`; how this survives a process says `shelf`; who sends a
digest says `outbox`.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from math import inf
from typing import Any

from worker.about import Severity, severity_of
from worker.digests import Because, Digest, Member, expanded, kind_of, ranges, subject_id
from worker.quiet import Bucket, Quiet, QuietSettings, Values
from worker.sinks import Delivery

HELD_EVENTS = 5_000
"""Per sink and partition. More wait, and reading with them, up to limits.in_flight; while the sink is muted, which may
last for days, more are refused."""
_SPARE_EVENTS = 1_000
"""So many more that a mute window lets through."""
_GROUPS = 200
"""Remembered per sink and partition; they stand in the partition state."""
_OTHERS: Values = (("group", "all others"),)
_DIGESTS_AT_ONCE = 10
_DIGEST_BYTES = 700_000
"""So that a digest fits wherever a message of the hub fits."""
_KINDS = 20


class Step(StrEnum):
    """What becomes of a delivery whose turn has come."""

    ALONE = "alone"
    JOINED = "joined"
    DROPPED = "dropped"
    """Its sink is muted, and the window says drop."""
    REFUSED = "refused"
    """Its sink is muted, and the window says dead_letter."""
    OVERFLOWS = "overflows"
    """Its sink is muted, and holds as many as it may."""
    WAIT = "wait"
    """It belongs into a group, and there is no room."""


@dataclass(slots=True, eq=False)
class Group:
    """Events that are told together, and when the last of them were."""

    number: int
    because: Because
    values: Values
    due_at: float = inf
    members: dict[int, Member] = field(default_factory=dict)
    severity: Severity = Severity.INFO
    """Of the most severe one in it."""
    told_at: float | None = None
    told: frozenset[str] = frozenset()
    """The kinds that its last message told of."""


class _Numbers:
    """Gives each number once, in this life and the next."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self) -> int:
        self.last += 1
        return self.last


class SinkGroups:
    """The groups of one sink."""

    def __init__(self, sink: str, quiet: Quiet, numbers: _Numbers) -> None:
        self.sink = sink
        self.unsent: deque[Digest] = deque()
        self.held = 0
        """Events in groups and unsent digests."""
        self._quiet = quiet
        self._numbers = numbers
        self._groups: dict[tuple[Because, Values], Group] = {}
        self._by_number: dict[int, Group] = {}
        self._subjects: Counter[str] = Counter()
        self._bucket: Bucket | None = None

    # --- an event comes

    def meet(self, delivery: Delivery, *, now: float, trace: str) -> Step:
        """What becomes of a delivery whose turn has come; JOINED: it is in a group now."""
        event = delivery.released.placed.event
        mute = self._quiet.muted(severity_of(event), now)
        if mute and mute.then != "hold":
            return Step.DROPPED if mute.then == "drop" else Step.REFUSED
        subject = subject_id(event.key)
        due_at: float | None = None
        if self._quiet.groups:
            because, values = Because.GROUP, self._quiet.values_of(event)
        else:
            alone = self._why_not_alone(subject, mute.until if mute else None, now)
            if alone is None:
                return Step.ALONE
            (because, due_at), values = alone, ()
        if mute and self.held >= HELD_EVENTS:
            return Step.OVERFLOWS
        if self.held >= HELD_EVENTS + (_SPARE_EVENTS if self._quiet.settings.mute else 0):
            return Step.WAIT
        group = self._group(because, values)
        member = Member.of(delivery, number=self._numbers.next(), group=group.number, trace=trace)
        self._join(group, member, due_at=due_at, now=now)
        return Step.JOINED

    def _why_not_alone(self, subject: str, muted_until: float | None, now: float) -> tuple[Because, float] | None:
        """Where events are not grouped: why this one is told with others all the same, and when; None: it is not."""
        if muted_until is not None:
            return Because.MUTE, muted_until
        excess = self._groups.get((Because.LIMIT, ()))
        if excess is not None and excess.members:
            return Because.LIMIT, excess.due_at
        if self._subjects[subject]:
            return Because.ORDER, now
        self._bucket = self._quiet.filled(self._bucket, now)
        if self._bucket is None:
            return None
        if self._bucket.tokens < 1:
            return Because.LIMIT, now + self._quiet.settings.group_interval_seconds
        self._take_tokens(1)
        return None

    def _group(self, because: Because, values: Values) -> Group:
        group = self._groups.get((because, values))
        if group is None and because is Because.GROUP and len(self._groups) >= _GROUPS and not self._forget_one():
            values = _OTHERS
            group = self._groups.get((because, values))
        return group or self._add(Group(self._numbers.next(), because, values))

    def _add(self, group: Group) -> Group:
        self._groups[group.because, group.values] = self._by_number[group.number] = group
        return group

    def _forget(self, group: Group) -> None:
        del self._groups[group.because, group.values], self._by_number[group.number]

    def _join(self, group: Group, member: Member, *, due_at: float | None, now: float) -> None:
        if due_at is None:
            news = kind_of(member.entry) not in group.told
            due_at = self._quiet.due(now=now, told_at=group.told_at, news=news)
        group.due_at = min(group.due_at, due_at) if group.members else due_at
        self._put(group, member)
        if len(group.members) >= self._quiet.settings.max_events:
            group.due_at = min(group.due_at, now)

    def _put(self, group: Group, member: Member) -> None:
        group.members[member.number] = member
        group.severity = max(group.severity, member.entry.severity, key=lambda each: each.rank)
        self._count(member)

    def _count(self, member: Member) -> None:
        self._subjects[member.subject] += 1
        self.held += 1

    # --- groups are due

    def close(self, now: float) -> list[Digest]:
        """What is due, as digests, which are unsent from now on."""
        if self.unsent:
            return []
        self._forget_old(now)
        due = [each for each in self._groups.values() if each.members and each.due_at <= now]
        due = sorted((each for each in due if not self._is_muted(each, now)), key=lambda each: each.due_at)
        if not due:
            return []
        self._bucket = self._quiet.filled(self._bucket, now)
        room = _DIGESTS_AT_ONCE if self._bucket is None else min(_DIGESTS_AT_ONCE, int(self._bucket.tokens))
        if not room:
            return []
        together = due[room - 1 :] if self._bucket is not None and len(due) > room else []
        single = due[: room - 1] if together else due[:room]
        digests = [self._digest(each.because, each.values, [each], now) for each in single if each.members]
        if together := [each for each in together if each.members]:
            digests.append(self._digest(Because.LIMIT, (), together, now))
        self._take_tokens(len(digests))
        self.unsent.extend(digests)
        return digests

    def _is_muted(self, group: Group, now: float) -> bool:
        mute = self._quiet.muted(group.severity, now)
        if mute is None:
            return False
        group.due_at = mute.until
        return True

    def _digest(self, because: Because, values: Values, groups: list[Group], now: float) -> Digest:
        own = sorted(chain.from_iterable(group.members.values() for group in groups))
        last = {member.subject: member.number for member in own}
        others = chain.from_iterable(group.members.values() for group in self._groups.values() if group not in groups)
        earlier = [member for member in others if member.number < last.get(member.subject, 0)]
        # The first of them: whoever is among these has all that came before it of its subject among them as well.
        taken = self._fitting(sorted([*own, *earlier]))
        for group in groups:
            if kinds := {kind_of(each.entry) for each in taken if each.group == group.number}:
                group.told_at, group.told = now, frozenset(sorted(kinds)[:_KINDS])
        self._take_out(taken)
        return Digest(self.sink, because, values, now, tuple(taken))

    def _fitting(self, members: list[Member]) -> list[Member]:
        """The first of them, as many as a digest takes."""
        room, fitting = _DIGEST_BYTES, 0
        for member in members[: self._quiet.settings.max_events]:
            room -= member.size
            if room < 0 and fitting:
                break
            fitting += 1
        return members[:fitting]

    def _take_out(self, members: list[Member]) -> None:
        """Out of their groups; they stay held."""
        left = {self._by_number[member.group] for member in members}
        for member in members:
            del self._by_number[member.group].members[member.number]
        for group in left:
            severities = (each.entry.severity for each in group.members.values())
            group.severity = max(severities, key=lambda each: each.rank, default=Severity.INFO)

    def sent(self, digest: Digest) -> None:
        """The digest is where it belongs."""
        self.given_up(digest)
        self.release(digest)

    def given_up(self, digest: Digest) -> None:
        """The digest is a dead letter. Later events of its subjects wait until `release`."""
        self.unsent.remove(digest)

    def release(self, digest: Digest) -> None:
        """No later life will send it again: its subjects are free."""
        for member in digest.members:
            self.held -= 1
            self._subjects[member.subject] -= 1
            if not self._subjects[member.subject]:
                del self._subjects[member.subject]

    def _take_tokens(self, count: int) -> None:
        if self._bucket is not None:
            self._bucket = Bucket(self._bucket.tokens - count, self._bucket.at)

    def _forget_old(self, now: float) -> None:
        for group in list(self._groups.values()):
            if not group.members and now - (group.told_at or 0.0) > self._quiet.memory_seconds:
                self._forget(group)
        if self._bucket is not None and self._quiet.filled(self._bucket, now) == self._quiet.filled(None, now):
            self._bucket = None

    def _forget_one(self) -> bool:
        """Makes room by forgetting when a group was told; False: something is held in every one."""
        idle = [group for group in self._groups.values() if not group.members]
        if idle:
            self._forget(min(idle, key=lambda each: each.told_at or 0.0))
        return bool(idle)

    # --- from rules to rules, and from life to life

    def follow(self, settings: QuietSettings, *, now: float, at_once: bool) -> None:
        """Other settings hold. What is held is told when it was to be, or when it would be if it came now: the sooner.

        `at_once`: what is held is due now.
        """
        if settings == self._quiet.settings and not at_once:
            return
        self._quiet = Quiet(settings)
        for group in self._groups.values():
            if group.members:
                due = now if at_once else self._quiet.due(now=now, told_at=group.told_at, news=True)
                group.due_at = min(group.due_at, due)

    @property
    def live(self) -> Iterator[Member]:
        """All that is held."""
        for group in self._groups.values():
            yield from group.members.values()
        for digest in self.unsent:
            yield from digest.members

    def oldest_due(self) -> float:
        """When the first group is due; infinity where nothing is held in one."""
        return min((group.due_at for group in self._groups.values() if group.members), default=inf)

    def snapshot(self) -> dict[str, Any]:
        """What is not in the members' rows; empty where there is nothing to remember."""
        if not self._groups and not self.unsent and self._bucket is None:
            return {}
        return {
            "groups": [
                [each.number, each.because, each.values, each.due_at, each.told_at, sorted(each.told)]
                for each in self._groups.values()
            ],
            "unsent": [
                [each.because, each.values, each.closed_at, each.attempts, ranges(one.number for one in each.members)]
                for each in self.unsent
            ],
            "bucket": [self._bucket.tokens, self._bucket.at] if self._bucket else None,
        }

    def restore(self, content: Mapping[str, Any], rows: dict[int, Member]) -> None:
        """Takes over what `snapshot` gave in an earlier life; takes its members out of the rows."""
        for because, values, closed_at, attempts, numbers in content["unsent"]:
            members = tuple(rows.pop(number) for number in expanded(numbers) if number in rows)
            for member in members:
                self._count(member)
            if members:
                self.unsent.append(
                    Digest(self.sink, Because(because), _as_values(values), closed_at, members, attempts)
                )
        mine: dict[int, list[Member]] = {}
        for row in rows.values():
            mine.setdefault(row.group, []).append(row)
        for number, because, values, due_at, told_at, told in content["groups"]:
            due = inf if due_at is None else due_at
            group = Group(number, Because(because), _as_values(values), due, told_at=told_at, told=frozenset(told))
            self._add(group)
            for member in mine.get(number, ()):
                self._put(group, rows.pop(member.number))
        self._bucket = Bucket(*content["bucket"]) if content["bucket"] else None


class Groups:
    """The groups of all sinks for one partition."""

    def __init__(self, quiet: Mapping[str, QuietSettings]) -> None:
        self._numbers = _Numbers()
        self._sinks = {sink: SinkGroups(sink, Quiet(settings), self._numbers) for sink, settings in quiet.items()}

    def may_tell(self, sink: str) -> bool:
        """Whether deliveries of this sink may join a group."""
        return sink in self._sinks

    def meet(self, delivery: Delivery, *, now: float, trace: str = "") -> Step:
        """What becomes of a delivery whose turn has come. `trace`: what it belongs to, as a traceparent."""
        groups = self._sinks.get(delivery.sink)
        return Step.ALONE if groups is None else groups.meet(delivery, now=now, trace=trace)

    def close(self, now: float) -> list[Digest]:
        """What is due, as digests, which are unsent from now on."""
        return [digest for groups in self._sinks.values() for digest in groups.close(now)]

    def sent(self, digest: Digest) -> None:
        """The digest is where it belongs."""
        self._sinks[digest.sink].sent(digest)

    def given_up(self, digest: Digest) -> None:
        """The digest is a dead letter. Later events of its subjects wait until `release`."""
        self._sinks[digest.sink].given_up(digest)

    def release(self, digest: Digest) -> None:
        """No later life will send it again: its subjects are free."""
        self._sinks[digest.sink].release(digest)

    def __iter__(self) -> Iterator[SinkGroups]:
        return iter(self._sinks.values())

    @property
    def live(self) -> dict[int, Member]:
        """All that is held, by number."""
        return {member.number: member for groups in self._sinks.values() for member in groups.live}

    def follow(self, quiet: Mapping[str, QuietSettings], *, now: float) -> None:
        """Other settings hold from now on. What is held for a sink that is not among them any more is due now."""
        for sink, groups in self._sinks.items():
            groups.follow(quiet.get(sink, QuietSettings()), now=now, at_once=sink not in quiet)
        for sink, settings in quiet.items():
            if sink not in self._sinks:
                self._sinks[sink] = SinkGroups(sink, Quiet(settings), self._numbers)

    def snapshot(self) -> dict[str, Any]:
        """What is not in the members' rows; empty where there is nothing to remember."""
        sinks = {groups.sink: content for groups in self._sinks.values() if (content := groups.snapshot())}
        return {"last": self._numbers.last, "sinks": sinks} if sinks else {}

    def restore(self, content: Mapping[str, Any], rows: Iterable[Member]) -> None:
        """Takes over an earlier life's groups and their members.

        What was held for a sink that is not quiet any more, or not there any more, is told at once.
        """
        if not content:
            return
        self._numbers.last = max(self._numbers.last, content["last"])
        left = {row.number: row for row in rows}
        for sink, its in content["sinks"].items():
            if sink not in self._sinks:
                self._sinks[sink] = SinkGroups(sink, Quiet(QuietSettings()), self._numbers)
                self._sinks[sink].restore(_due_now(its), left)
            else:
                self._sinks[sink].restore(its, left)


def _due_now(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, "groups": [[*each[:3], 0.0, *each[4:]] for each in content["groups"]], "bucket": None}


def _as_values(content: Iterable[Iterable[str]]) -> Values:
    return tuple((name, value) for name, value in content)
