"""Status pages for tests: one as it may be at noon, and one of which everything that comes from outside is hostile."""

import math
from dataclasses import replace

from worker.plots import SAMPLE_SECONDS, SAMPLES, Sample, plots
from worker.status import AttemptView, ExpectationView, LaneView, LetterView, PartitionView, Status

NOON = 1_764_504_000.0
"""2025-11-30 12:00:00 UTC."""

HOSTILE = (
    "</style></script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"\' onmouseover=\'document.title="owned"\' x="',
    "{{ 7 * 7 }} {% raw %} ]]> <!-- &amp; &lt;b&gt;",
    "<svg/onload=document.title='owned'> <iframe src='javascript:parent.document.title=1'>",
    "a\u202egnp.exe\u0000\u0007\r\nb \u05d0\u05d1",
    "x" * 400,
)


def samples(now: float) -> list[Sample]:
    """An hour with a destination that was down for some minutes, and a process that hung for two."""
    made, delivered = [], 0.0
    for number in range(SAMPLES):
        minute = number / 4
        down = 22 <= minute < 31
        backlog = max(0.0, minute - 22) * 90 if down else max(0.0, 810 - (minute - 31) * 160) if minute >= 31 else 0.0
        delivered += 0 if down else 22.5 + 6 * math.sin(number / 9) + (40 if minute >= 31 and backlog else 0)
        age = (minute - 22) * 60 if down else backlog / 2
        at = now - (SAMPLES - 1 - number) * SAMPLE_SECONDS
        if not 44 <= minute < 46:
            made.append(Sample(at, backlog + 4, age + 1.5, delivered, age))
    return made


def noon() -> Status:
    """A process with a sink that refuses it, one that was down, and a dead letter."""
    runs = [f"experiments/daily-forecast/runs/forecast_{number:04d}" for number in range(118, 124)]
    ids = [f"5f{number:06x}-7c1d-4a38-a7c7-84a39d4f42e0" for number in range(6)]
    refused = "sink retrain: management.azure.com answered 403: AuthorizationFailed"
    return Status(
        name="worker-6d9f7c-x2x8q-1-4ac01f",
        version="0.1.0",
        hub="ml-events",
        consumer_group="$Default",
        digest="3f1c9a7be2d0",
        now=NOON,
        started_at=NOON - 9_400,
        notes={"rules": "3f1c9a7be2d0 in force since 2025-11-30T10:24:03Z"},
        partitions=[
            PartitionView("0", "reading", "good", "", 12, 4, 1.5, 3, 1, 5.0),
            PartitionView("1", "reading", "good", "", 9, 0, 0.0, 0, 0, 5.0),
            PartitionView(
                "2", "stopped", "bad", "68 of its last 100 messages cannot be decoded; is this the right hub?", 14, 214
            ),
            PartitionView("3", "being taken", "note"),
        ],
        lanes=[
            LaneView("oncall", "email", "free", "good", 0, 0.0),
            LaneView("retrain", "azureml_job", "paused: the destination refuses this worker", "bad", 3, 754, refused),
            LaneView("out", "webhook", "free", "good", 1, 0.2),
            LaneView("audit", "blob", "held by its configuration", "note", 12, 0.0),
        ],
        expectations=[ExpectationView("run-ends", 17, None), ExpectationView("model-is-deployed", None, 2)],
        attempts=[
            AttemptView(NOON - 2, "out", runs[5], ids[5], "accepted", "good"),
            AttemptView(NOON - 4, "retrain", runs[4], ids[4], "misconfigured", "bad", refused),
            AttemptView(NOON - 9, "out", runs[3], ids[3], "unavailable", "note", "sink out: hooks answered 503"),
            AttemptView(NOON - 31, "oncall", runs[2], ids[2], "accepted", "good"),
        ],
        letters=[
            LetterView(
                NOON - 610, "rejected", "out", "0/48211", runs[1], ids[1], "sink out: hooks answered 422: no run"
            ),
            LetterView(NOON - 905, "not_json", "", "2/7102", "", "", "The message is not JSON."),
        ],
        plots=plots(samples(50_000.0), 50_000.0),
    )


def hostile() -> Status:
    """Everything that an event, a destination or a file's name can say is hostile."""
    page = noon()
    return replace(
        page,
        name=HOSTILE[0],
        notes={text: text for text in HOSTILE},
        not_ready={text: text for text in HOSTILE},
        stale=list(HOSTILE),
        partitions=[PartitionView("0", "stopped", "bad", text) for text in HOSTILE],
        lanes=[LaneView(text, text, "free", "good", error=text) for text in HOSTILE],
        expectations=[ExpectationView(text, 1, None) for text in HOSTILE],
        attempts=[AttemptView(NOON, text, text, text, "rejected", "bad", text) for text in HOSTILE],
        letters=[LetterView(NOON, text, text, "0/1", text, text, text) for text in HOSTILE],
    )
