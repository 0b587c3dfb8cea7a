import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliveries import ELEMENT, delivery_of
from worker.sinks.cloudevents import NO_SOURCE, structured, structured_json

SAMPLES = sorted((Path(__file__).parents[1] / "samples").glob("*.json"))
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
CLOUD_EVENT = {"specversion": "1.0", "id": "1", "type": "t", "source": "/s"}


def element_of(sample: Path) -> dict[str, Any]:
    value = orjson.loads(sample.read_bytes())
    return value[0] if isinstance(value, list) else value


def assert_is_a_cloud_event(event: dict[str, Any]) -> None:
    """The rules of CloudEvents 1.0 and its JSON format, written from the specification."""
    assert event["specversion"] == "1.0"
    for required in ("id", "source", "type"):
        assert isinstance(event[required], str)
        assert event[required]
    for name, value in event.items():
        if name in {"data", "data_base64"}:
            continue
        assert re.fullmatch(r"[a-z0-9]+", name), name
        assert isinstance(value, bool | int | str), name
        assert value != "", name
        assert not isinstance(value, int) or -(2**31) <= value < 2**31, name
    for text in ("subject", "datacontenttype", "dataschema", "time"):
        assert isinstance(event.get(text, ""), str)
    assert "time" not in event or RFC3339.fullmatch(event["time"])
    assert not {"data", "data_base64"} <= event.keys()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_becomes_a_valid_cloud_event_that_keeps_its_payload(sample):
    element = element_of(sample)

    event = orjson.loads(structured_json(delivery_of(element)))

    assert_is_a_cloud_event(event)
    assert event["id"] == element["id"]
    assert event["type"] == element.get("eventType", element.get("type"))
    assert event.get("subject", "") == (element.get("subject") or "")
    assert event["source"] == element.get("topic", element.get("source"))
    assert event["time"] == element.get("eventTime", element.get("time"))
    assert event.get("data") == element.get("data")
    assert event.get("data_base64") == element.get("data_base64")


def test_an_event_grid_event_is_converted_attribute_by_attribute():
    element = ELEMENT | {"dataVersion": "2", "metadataVersion": "1"}

    assert structured(delivery_of(element)) == {
        "specversion": "1.0",
        "id": "e1",
        "source": "/subscriptions/s/workspaces/ws",
        "type": "Microsoft.MachineLearningServices.RunStatusChanged",
        "subject": "experiments/exp/runs/run-1",
        "time": "2017-06-26T18:41:00.9584103Z",
        "datacontenttype": "application/json",
        "data": {"runStatus": "Failed", "note": "naïve ☃"},
    }


def test_what_an_event_grid_event_lacks_is_left_out_and_the_source_stands_in():
    element = {"id": "e1", "eventType": "t", "topic": None, "subject": "", "data": None}

    assert structured(delivery_of(element)) == {"specversion": "1.0", "id": "e1", "source": NO_SOURCE, "type": "t"}


def test_a_cloud_event_keeps_its_extensions_and_its_content_type():
    element = CLOUD_EVENT | {
        "datacontenttype": "text/plain",
        "comexampleothervalue": 5,
        "flag": False,
        "traceparent": "00-ab",
        "data": "hello",
        "empty": "",
        "nothing": None,
    }

    assert structured(delivery_of(element)) == CLOUD_EVENT | {
        "datacontenttype": "text/plain",
        "comexampleothervalue": 5,
        "flag": False,
        "traceparent": "00-ab",
        "data": "hello",
    }


def test_names_and_values_that_cloud_events_does_not_have_are_brought_into_its_form():
    element = CLOUD_EVENT | {
        "Trace_Id": "x",
        "ratio": 0.5,
        "big": 2**40,
        "list": [1, {"a": None}],
        "___": "gone",
        "dataschema": 5,
    }

    assert structured(delivery_of(element)) == CLOUD_EVENT | {
        "traceid": "x",
        "ratio": "0.5",
        "big": str(2**40),
        "list": '[1,{"a":null}]',
    }


def test_an_extension_cannot_replace_an_attribute_of_the_event():
    element = CLOUD_EVENT | {"ID": "other", "Source": "/other", "SpecVersion": "2.0", "Data": "other", "data": 1}

    assert structured(delivery_of(element)) == CLOUD_EVENT | {"data": 1}


def test_the_misspelt_specversion_goes_out_correctly_spelt():
    element = {"specVersion": "1.0", "id": "1", "type": "t", "source": "/s"}

    assert structured(delivery_of(element)) == CLOUD_EVENT


def test_binary_data_stays_base64():
    encoded = base64.b64encode(bytes(range(256))).decode()

    event = structured(delivery_of(CLOUD_EVENT | {"data_base64": encoded}))

    assert event == CLOUD_EVENT | {"data_base64": encoded}


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        ("2018-06-02T19:17:44.4383997Z", "2018-06-02T19:17:44.4383997Z"),
        ("2018-06-02T19:17:44+02:00", "2018-06-02T19:17:44+02:00"),
        ("2018-06-02T19:17:44", "2018-06-02T19:17:44.0000000Z"),
        ("2018-06-02 19:17:44.5", "2018-06-02T19:17:44.5000000Z"),
        ("2018-06-31T19:17:44Z", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_only_an_rfc_3339_time_goes_out(came, goes):
    assert structured(delivery_of(ELEMENT | {"eventTime": came})).get("time") == goes


def test_a_late_event_says_how_late_and_an_event_in_order_says_nothing():
    assert structured(delivery_of(late_by_ms=1500))["lateby"] == 1500
    assert structured(delivery_of(late_by_ms=0))["lateby"] == 0
    assert structured(delivery_of(late_by_ms=2**40))["lateby"] == 2**31 - 1
    assert "lateby" not in structured(delivery_of())


def test_a_replayed_event_says_so_and_no_other_does():
    again = structured(replace(delivery_of(), replayed=True))
    assert again["replayed"] is True
    assert again == structured(delivery_of()) | {"replayed": True}


def test_the_same_delivery_is_always_the_same_bytes():
    assert structured_json(delivery_of()) == structured_json(delivery_of())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=6))
def test_whatever_else_stands_in_a_cloud_event_it_goes_out_valid(extras):
    refused_by_decode = {"time", "source", "subject", "data_base64", "specversion"}
    extras = {name: value for name, value in extras.items() if name not in refused_by_decode}

    assert_is_a_cloud_event(orjson.loads(structured_json(delivery_of(extras | CLOUD_EVENT))))
