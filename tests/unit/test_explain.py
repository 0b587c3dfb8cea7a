"""What `worker explain` says about the events of a file."""

import io
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from worker.expect import ExpectRule
from worker.explain import explain, render
from worker.filters import compile_filter
from worker.route import Routes, RouteSpec

SAMPLES = Path(__file__).parents[1] / "samples"
FAILED = compile_filter(
    {"advancedFilters": [{"operatorType": "StringIn", "key": "data.runStatus", "values": ["Failed"]}]}
)
ROUTES = Routes([RouteSpec("failed-runs", ("oncall",), FAILED), RouteSpec("all", ("audit",))])
RUN = "Microsoft.MachineLearningServices.RunStatusChanged"


def rendered(rows) -> str:
    out = io.StringIO()
    render(rows, Console(file=out, width=40, force_terminal=False))
    return out.getvalue()


def test_an_event_is_explained_in_the_documented_form():
    name = f"{RUN}.docs.eventgrid.json"
    assert explain(name, (SAMPLES / name).read_bytes(), ROUTES) == [
        {
            "file": name,
            "index": 0,
            "schema": "eventgrid",
            "id": "831e1650-001e-001b-66ab-eeb76e069631",
            "type": RUN,
            "source": "/subscriptions/{subscription-id}/resourceGroups/{resource-group-name}/providers"
            "/Microsoft.MachineLearningServices/workspaces/{workspace-name}",
            "subject": "experiments/0fa9dfaa-cba3-4fa7-b590-23e48548f5c1/runs/"
            "AutoML_ad912b2d-6467-4f32-a616-dbe4af6dd8fc_5",
            "order_key": {"kind": "time", "value": "2017-06-26T18:41:00.9584103Z/8"},
            "routes": [
                {
                    "route": "failed-runs",
                    "matched": True,
                    "reason": 'data.runStatus is "failed": StringIn ["Failed"] holds',
                    "sinks": ["oncall"],
                },
                {"route": "all", "matched": True, "reason": "the route has no filter", "sinks": ["audit"]},
            ],
            "expect": [],
        }
    ]


def test_a_route_that_does_not_match_says_why_and_names_no_sink():
    name = f"{RUN}.sdk.eventgrid.json"
    [row] = explain(name, (SAMPLES / name).read_bytes(), ROUTES)
    assert row["routes"][0] == {
        "route": "failed-runs",
        "matched": False,
        "reason": 'data.runStatus is "Running": StringIn ["Failed"] does not hold',
        "sinks": [],
    }


@pytest.mark.parametrize(
    ("body", "elements"),
    [
        ("cloudevents-single-object", 1),
        ("cloudevents-single-in-array", 1),
        ("eventgrid-single-in-array", 1),
        ("eventgrid-batch-of-four-with-duplicate", 4),
    ],
)
def test_a_file_holds_an_event_an_array_or_a_whole_body(body, elements):
    rows = explain(body, (SAMPLES / "bodies" / f"{body}.json").read_bytes(), ROUTES)
    assert [(row["file"], row["index"]) for row in rows] == [(body, index) for index in range(elements)]
    assert not any("error" in row for row in rows)


def test_a_bad_element_is_an_error_at_its_index_and_the_rest_is_explained():
    rows = explain("-", b'[{"id": "1", "eventType": "T"}, 5, {"id": "2"}]', ROUTES)
    assert "error" not in rows[0]
    assert (rows[0]["source"], rows[0]["subject"]) == (None, None)
    assert rows[0]["order_key"] == {"kind": "arrival", "value": None}
    assert [set(row) for row in rows[1:]] == [{"file", "index", "error"}] * 2
    assert rows[1]["error"].startswith("not_an_object: ")
    assert rows[2]["error"].startswith("no_envelope: ")


def test_what_is_no_json_is_one_error_and_an_empty_array_has_no_rows():
    [row] = explain("f", b"nonsense", ROUTES)
    assert row["error"].startswith("not_json: ")
    assert explain("f", b"[]", ROUTES) == []


def test_an_order_key_that_could_not_be_read_is_named():
    [row] = explain("f", b'{"id": "1", "eventType": "T", "eventTime": "tonight"}', ROUTES)
    assert (row["order_key"], row["order_defect"]) == ({"kind": "arrival", "value": None}, "time")
    assert "  order   by arrival (its time cannot be read)" in rendered([row]).splitlines()


@given(st.binary(max_size=50))
def test_every_row_can_be_printed_as_json_and_for_a_reader(content):
    rows = explain("f", content, ROUTES)
    assert orjson.loads(orjson.dumps(rows)) == rows
    assert rendered(rows) or not rows


def test_the_text_tells_the_same():
    rows = explain("events.json", b'[{"id": "1", "eventType": "T", "subject": "a/b"}, 5]', ROUTES)
    lines = rendered(rows).splitlines()
    assert lines[0] == "events.json[0]  T  (eventgrid)"
    assert "  source  (none)" in lines
    assert "  subject a/b" in lines
    assert "  order   by arrival" in lines
    assert '  no   failed-runs: data.runStatus is missing or null: StringIn ["Failed"] does not hold' in lines
    assert "  yes  all to audit: the route has no filter" in lines
    assert "events.json[1]  not_an_object: The element is a number, not an object." in lines


def test_an_event_can_neither_steer_the_terminal_nor_forge_a_line():
    event = {"id": "\x1b[31m[bold]x[/bold]", "eventType": "T\u202e", "subject": "a\n  yes  forged to oncall"}
    text = rendered(explain("f", orjson.dumps(event), ROUTES))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]x[/bold]" in text
    assert not any(line.startswith("  yes  forged") for line in text.splitlines())


def test_a_route_says_what_it_does_not_deliver_of_what_it_matches():
    routes = Routes(
        [
            RouteSpec("mirror", ("copy",), only="latest", changed=("data", "etag")),
            RouteSpec("again", ("copy",), only="latest"),
        ]
    )
    name = "Microsoft.Storage.BlobCreated.eventgrid.json"
    [row, *_] = explain(name, (SAMPLES / name).read_bytes(), routes)
    assert [each["reason"] for each in row["routes"]] == [
        (
            "the route has no filter; only: latest, so not when a newer one of its subject is released with it; "
            "changed, so not when its data.etag is the last one delivered of its subject"
        ),
        "the route has no filter; copy has it by mirror already",
    ]


def test_an_event_is_held_against_the_expectations_too():
    rules = (
        ExpectRule("fails", "6h", 21_600.0, None, None, after=compile_filter({}), then=FAILED),
        ExpectRule("alive", "1d", 86_400.0, ("/x",), frozenset({"/x"}), is_silence=True),
    )
    [row] = explain("f", b'{"id": "1", "eventType": "T", "topic": "/x", "data": {}}', ROUTES, rules)
    assert row["expect"] == [
        {
            "rule": "fails",
            "part": "after",
            "matched": True,
            "time": "6h",
            "reason": "the filter accepts every event",
        },
        {
            "rule": "fails",
            "part": "then",
            "matched": False,
            "time": "6h",
            "reason": 'data.runStatus is missing or null: StringIn ["Failed"] does not hold',
        },
        {"rule": "alive", "part": "events", "matched": True, "time": "1d", "reason": "every event is one"},
    ]
    assert [line for line in rendered([row]).splitlines() if " expect " in line] == [
        (
            "  yes  expect fails, as the first event, on which another must follow within 6h: the filter accepts every "
            "event"
        ),
        (
            "  no   expect fails, as what must follow within 6h: data.runStatus is missing or null: StringIn "
            '["Failed"] does not hold'
        ),
        "  yes  expect alive, as a sign of life, as there must be one every 1d: every event is one",
    ]
