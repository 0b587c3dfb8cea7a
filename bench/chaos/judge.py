"""Judges a chaos run from the destinations' own records, the traffic and the dead letters. Pure.

`worker.local.verdict` compares what arrived with what was sent; here stands what may be missing or come twice when
processes are killed and destinations keep their answers to themselves.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.chaos.receivers import Book
from worker.local.traffic import TrafficEvent, TrafficMessage
from worker.local.verdict import Letter, SinkVerdict, judge
from worker.stores import DeadLetter

_SEEN_LATE_SECONDS = 1.0
"""A line of the audit file may be seen so long after it was written."""


@dataclass(frozen=True, slots=True)
class SinkResult:
    """What one destination got."""

    seen: SinkVerdict
    lost: int
    """Neither delivered nor kept as a dead letter."""
    given_up: int
    """Not delivered, and kept as a dead letter."""
    untold: int
    """Of the doubled: those that the destination itself caused, because it took an event and did not say so."""
    disturbed: int
    """Of the others: those with a kill, a freeze or a thaw between the two."""
    may_double_percent: float
    """What it may see twice; 0 where it honours the idempotency key, or a ledger stands before it."""

    @property
    def doubled_percent(self) -> float:
        """Of what is expected."""
        return 100 * self.seen.doubled / max(1, self.seen.expected)

    @property
    def is_right(self) -> bool:
        """Whether the promises were kept."""
        seen = self.seen
        faults = self.lost + seen.unexpected + seen.out_of_order + seen.wrongly_late + seen.doubled_under_another_key
        return faults == 0 and (self.doubled_percent < self.may_double_percent or seen.doubled == 0)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of everything."""

    sent_messages: int
    sent_events: int
    resent: int
    malformed: int
    malformed_kept: int
    unexpected_letters: int
    """Of no sink, and not the bytes of a malformed message."""
    sinks: tuple[SinkResult, ...]
    letters: Mapping[str, int]
    """Explained dead letters by sink, reason and explanation."""
    unexplained: tuple[str, ...]
    """The others, one sentence each."""

    @property
    def is_right(self) -> bool:
        """Whether all promises were kept."""
        kept = self.malformed_kept == self.malformed and not self.unexpected_letters
        return kept and not self.unexplained and all(sink.is_right for sink in self.sinks)


def judge_run(
    sent: Sequence[TrafficMessage],
    expects: Callable[[TrafficEvent], Iterable[str]],
    books: Mapping[str, Book],
    letters: Sequence[DeadLetter],
    *,
    disturbed: Sequence[float],
    may_double: Mapping[str, float],
) -> Result:
    """`disturbed`: when processes were killed, frozen or thawed, as Unix time; `may_double`: percent, by sink."""
    arrivals = {sink: book.arrivals for sink, book in books.items()}
    verdict = judge(sent, expects, arrivals, [Letter(letter.body, letter.sink) for letter in letters])
    explained: Counter[str] = Counter()
    unexplained: list[str] = []
    for letter in letters:
        if letter.sink is None:
            continue  # judged by its bytes
        why = _explanation(letter, books[letter.sink], disturbed)
        if why:
            explained[f"{letter.sink}: {letter.reason}, {why}"] += 1
        else:
            unexplained.append(
                f"{letter.sink}: {letter.reason}, event {letter.event_id}, partition {letter.partition}, "
                f"{letter.attempts} attempts: {letter.detail}"
            )
    wanted = _wanted(sent, expects, books)
    return Result(
        sent_messages=verdict.sent_messages,
        sent_events=verdict.sent_events,
        resent=verdict.resent,
        malformed=verdict.malformed,
        malformed_kept=verdict.malformed_kept,
        unexpected_letters=verdict.unexpected_dead_letters,
        sinks=tuple(
            _sink(
                seen,
                books[seen.sink],
                wanted[seen.sink],
                letters,
                disturbed=disturbed,
                may_double_percent=may_double.get(seen.sink, 0.0),
            )
            for seen in verdict.sinks
        ),
        letters=dict(explained),
        unexplained=tuple(unexplained),
    )


def _wanted(
    sent: Sequence[TrafficMessage], expects: Callable[[TrafficEvent], Iterable[str]], sinks: Iterable[str]
) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {sink: set() for sink in sinks}
    for message in sent:
        for event in message.events:
            for sink in expects(event):
                wanted[sink].add(event.id)
    return wanted


def _sink(
    seen: SinkVerdict,
    book: Book,
    wanted: set[str],
    letters: Iterable[DeadLetter],
    *,
    disturbed: Sequence[float],
    may_double_percent: float,
) -> SinkResult:
    missing = wanted - {arrival.event_id for arrival in book.arrivals}
    given_up = missing & {letter.event_id for letter in letters if letter.sink == seen.sink and letter.event_id}
    causes = Counter(_causes(book, sorted(disturbed)))
    return SinkResult(
        seen=seen,
        lost=len(missing) - len(given_up),
        given_up=len(given_up),
        untold=causes["untold"],
        disturbed=causes["disturbed"],
        may_double_percent=may_double_percent,
    )


def _causes(book: Book, disturbed: Sequence[float]) -> Iterator[str]:
    """Why each repeated arrival came, as far as it is known."""
    last: dict[str, float] = {}
    untold = Counter(book.untold)
    for arrival, moment in zip(book.arrivals, book.times, strict=True):
        event = arrival.event_id
        if event in last:
            if untold[event]:
                untold[event] -= 1
                yield "untold"
            elif bisect_left(disturbed, last[event] - _SEEN_LATE_SECONDS) < bisect_right(disturbed, moment):
                yield "disturbed"
        last[event] = moment


def _explanation(letter: DeadLetter, book: Book, disturbed: Iterable[float]) -> str | None:
    """Why an event was given up, from what is known without the worker; None where nothing explains it."""
    if letter.reason != "unknown_outcome":
        return None
    if letter.idempotency_key in book.unanswered:
        return "the destination had not answered"
    if any(letter.enqueued_at <= moment <= letter.time for moment in disturbed):
        return "a process was killed or frozen meanwhile"
    return None
