"""docs/metrics.md: every metric, written from worker/metrics.py and the notes beside this test.

`UPDATE_DOCS=1` writes the page anew; without it the test fails when the page says something else.
"""

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from tests.contract.metric_notes import LABELS, NOTES
from worker.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_FORBIDDEN = {"subject", "event_id", "id", "source", "type", "url", "idempotency_key", "message", "error"}


class Metric(NamedTuple):
    """One family."""

    name: str
    kind: str
    labels: tuple[str, ...]
    sentence: str
    series: int
    """Of one combination of labels."""

    @property
    def sample(self) -> str:
        """As it is written in a query."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def metrics() -> Iterator[Metric]:
    for each in vars(Metrics()).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            series = len(each._upper_bounds) + 2 if isinstance(each, Histogram) else 1
            yield Metric(family.name, family.type, tuple(each._labelnames), family.documentation, series)


def test_each_metric_has_a_note_and_each_note_a_metric():
    noted = [name for section in NOTES.values() for name in section]
    assert sorted(noted) == sorted(each.name for each in metrics())


def test_labels_are_bounded_and_none_names_an_event():
    used = {label for each in metrics() for label in each.labels}
    assert used == LABELS.keys()
    assert not used & _FORBIDDEN


def test_the_page_names_every_metric_and_is_current():
    page = page_of({each.name: each for each in metrics()})
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "UPDATE_DOCS=1 writes it anew"


def page_of(known: dict[str, Metric]) -> str:
    sizes = {label: size for label, (size, _) in LABELS.items()}
    total = sum(each.series * prod(sizes[label] for label in each.labels) for each in known.values())
    parts = [HEAD, _table(("label", "its values"), [(f"`{name}`", bound) for name, (_, bound) in LABELS.items()])]
    owned, each_of = sizes["partition"], sizes["sink"]
    parts.append(
        f"A process that owns {owned} partitions and has {each_of} sinks, routes and rules each has about "
        f"{round(total, -3):,} series\nif every word of every label has occurred; most never do.\n"
    )
    for section, notes in NOTES.items():
        rows = [_row(known[name], note) for name, note in notes.items()]
        parts += [f"## {section}\n", _table(("metric", "type", "labels", "what it is", "what to make of it"), rows)]
    parts.append(TAIL)
    return "\n".join(parts)


def _row(each: Metric, note: str) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in each.labels)
    return f"`{each.sample}`", each.kind, labels, each.sentence, note


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


HEAD = """\
# Every metric

Written by `tests/contract/test_metrics_page.py` from `worker/metrics.py`. They are at `/metrics` of the HTTP port, in
the text format of Prometheus or, for whoever asks for it, as OpenMetrics. [Alerts](../deploy/alerts/rules.yaml) watch
over them, the [runbook](runbook.md) says what to do, and a [dashboard](dashboard.md) shows them. Gauges of a
partition are told by the process that owns it, and go away with it, so take `max` or `sum` over processes: `max
without (instance, pod) (…)`. Counters begin at 0 in each
process: use `rate`, `increase`.

## Labels

No label ever names a subject, an event, an address or an error's text: what a stranger can send makes no series.
"""

TAIL = """\
Besides, `process_*` (CPU, memory, open files, `process_start_time_seconds`) and `python_info` of the Prometheus client,
and for each counter and histogram `*_created`, when it began: do not drop those of counters, alerts ask for them.
"""
