from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cards import card_in, digest_of, entries_of, run_event, schema_errors
from tests.deliveries import ELEMENT, delivery_of
from worker.about import Link, Severity
from worker.notice import Entry, Kind, Notice, kinds_of, notice_of
from worker.sinks import Delivery
from worker.sinks.cards import message_of, written_again

MESSAGE_BYTES, WRITTEN_AGAIN_BYTES = 20 * 1024, 28 * 1024


def message(delivery: Delivery) -> bytes:
    return message_of(notice_of(delivery), key=delivery.idempotency_key)


def texts(card) -> list[str]:
    """Every text of a card, in order."""
    found = []
    for element in card["body"]:
        inner = element["items"] if element["type"] == "Container" else [element]
        for each in inner:
            found += [each["text"]] if each["type"] == "TextBlock" else [fact["value"] for fact in each["facts"]]
    return found


def test_the_message_is_one_card_with_what_happened_and_its_key_beside_it():
    delivery = delivery_of(run_event(7, "Failed"))
    whole = orjson.loads(message(delivery))
    [attachment] = whole["attachments"]
    card = attachment["content"]

    assert (whole["type"], whole["eventKey"]) == ("message", delivery.idempotency_key)
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attachment["contentUrl"] is None
    assert (card["type"], card["version"], card["msteams"]) == ("AdaptiveCard", "1.4", {"width": "Full"})
    assert card["fallbackText"] == "Error: Run Failed: daily-forecast / forecast_0007"
    assert texts(card)[:3] == [
        "Error",
        "Run Failed: daily-forecast / forecast_0007",
        "It happened in workspace forecasting, at 2026-11-22 06:07:12 UTC.",
    ]
    assert "5f000007-0000-4000-8000-000000000000" in texts(card)
    assert card["actions"] == [
        {
            "type": "Action.OpenUrl",
            "title": "Open the run",
            "url": f"https://ml.azure.com/runs/forecast_0007?wsid={run_event(7, '')['topic']}",
        }
    ]
    assert schema_errors(card) == []


@pytest.mark.parametrize(
    ("status", "word", "colour", "style"),
    [
        ("Failed", "Error", "Attention", "attention"),
        ("Canceled", "Warning", "Warning", "warning"),
        ("Completed", "Success", "Good", "good"),
        ("Running", "Information", "Default", "emphasis"),
    ],
)
def test_how_grave_it_is_shows_in_a_word_and_a_colour(status, word, colour, style):
    heading = card_in(message(delivery_of(run_event(1, status))))["body"][0]
    assert heading["style"] == style
    assert heading["items"][0]["text"] == word
    assert {item["color"] for item in heading["items"]} == {colour}


def test_what_the_worker_knows_of_the_order_is_said():
    late = card_in(message(delivery_of(late_by_ms=5300)))
    replayed = card_in(message(replace(delivery_of(), replayed=True)))
    assert [text for text in texts(late) if text.startswith("This is late: it came 5.3 seconds after")]
    assert [text for text in texts(replayed) if text.startswith("This is a replay")]


def test_an_event_without_a_place_to_look_has_no_button():
    card = card_in(message(delivery_of(ELEMENT | {"topic": "sensors", "eventType": "Some.Type"})))
    assert "actions" not in card
    assert schema_errors(card) == []


def test_a_digest_counts_lists_and_flags_its_events_and_says_which_event_it_is():
    entries = entries_of(["Failed", "Running", "Completed", "Failed"])
    entries[1] = replace(entries[1], late_by_ms=5300, superseded=True)
    card = card_in(message(digest_of(entries, group={"experiment": "daily-forecast"})))

    facts = {fact["title"]: fact["value"] for each in card["body"] for fact in each.get("facts", [])}
    assert (facts["Run Failed"], facts["Run Running"], facts["experiment"]) == ("2", "1", "daily-forecast")
    listed = [each["items"] for each in card["body"][1:] if each["type"] == "Container"]
    assert len(listed) == 4
    title, about = listed[1]
    assert title["text"].startswith(
        "[Run Running: daily-forecast / forecast_0002](https://ml.azure.com/runs/forecast_0002?"
    )
    assert about["text"] == "Information · 2026-11-22 06:02:12 UTC · late by 5.3 s · superseded"
    assert texts(card)[-1] == "Event digest-0815"
    assert schema_errors(card) == []


def test_a_long_digest_lists_the_gravest_and_counts_the_others():
    entries = entries_of(["Running"] * 500 + ["Failed"] * 5 + ["Completed"] * 495)
    made = message(digest_of(entries))
    card = card_in(made)
    listed = [each["items"][0]["text"] for each in card["body"][1:] if each["type"] == "Container"]

    assert 20 <= len(listed) <= 40
    assert len([text for text in listed if "Run Failed" in text]) == 5
    assert not [text for text in listed if "Run Running" in text]
    assert f"… and {1000 - len(listed)} more, not listed here. The gravest are listed." in texts(card)
    assert len(made) <= MESSAGE_BYTES
    assert not [text for text in texts(card) if "were cut" in text]


def test_long_texts_are_cut_the_longest_first_and_the_card_says_so():
    long = "\\*" * 5000
    names = ("runId", "modelName", "serviceName", "runType", "modelVersion")
    data = {"runStatus": "Failed", "experimentName": "daily", **dict.fromkeys(names, long)}
    made = message(delivery_of(run_event(1, "", subject=long, topic=long, id=long, data=data)))
    card = card_in(made)

    assert "daily" in texts(card)
    assert "Texts were cut to fit into a message." in texts(card)
    assert any(text.endswith("…") for text in texts(card))
    assert written_again(made) > WRITTEN_AGAIN_BYTES * 0.9
    assert_fits(made)


def test_the_same_delivery_is_the_same_bytes():
    digest = digest_of(entries_of(["Failed", "Running"] * 300))
    assert message(digest) == message(digest)


def assert_fits(made: bytes) -> None:
    assert len(made) <= MESSAGE_BYTES
    assert written_again(made) < WRITTEN_AGAIN_BYTES
    assert orjson.dumps(orjson.loads(made)) == made
    assert schema_errors(card_in(made)) == []


HOSTILE = st.sampled_from(
    [
        '"' * 10_000,
        "\\" * 10_000,
        "&lt;" * 3000,
        "😀" * 5000,
        "\u202e\u200f\u05d0" * 3000,
        "<at>all</at>[x](https://evil.example)" * 300,
        "a\r\n" * 3000,
        "*_~`[]()" * 1200,
        "{{DATE(2026-11-22T06:07:12Z)}}",
    ]
)
TEXT = HOSTILE | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=6,
)
ML = "Microsoft.MachineLearningServices."
EVENTS = st.fixed_dictionaries(
    {
        "id": TEXT.filter(bool),
        "eventType": TEXT.filter(bool) | st.sampled_from([f"{ML}RunStatusChanged", f"{ML}ModelRegistered", "a.B"]),
        "subject": st.none() | TEXT | TEXT.map(lambda text: f"experiments/{text}/runs/{text}"),
        "topic": st.none() | TEXT | st.just(run_event(1, "")["topic"]),
        "eventTime": st.none() | TEXT | st.just("2026-11-22T06:07:12Z"),
        "data": ANYTHING
        | st.fixed_dictionaries(
            {"runStatus": TEXT, "runId": TEXT, "experimentName": TEXT, "modelName": TEXT, "runTags": ANYTHING}
        ),
    }
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.none() | st.integers(0, 10**12), st.booleans())
def test_any_event_whatsoever_makes_a_valid_card_that_fits(element, late_by_ms, replayed):
    delivery = delivery_of(element, late_by_ms=late_by_ms)
    assert_fits(message(replace(delivery, replayed=replayed)))


ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            name: TEXT | st.sampled_from(["https://ml.azure.com/runs/x", "https://a.example/" + "(" * 1900])
            for name in ("id", "type", "source", "subject", "time", "state", "title", "url", "severity")
        }
        | {"lateby": st.integers(-(10**15), 10**15), "superseded": st.booleans()},
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 250), st.dictionaries(TEXT, TEXT, max_size=8))
def test_any_digest_whatsoever_makes_a_valid_card_that_fits(rows, times, group):
    entries = [Entry.from_json(row) for row in rows] * times
    delivery = digest_of(entries, group=group)
    card = card_in(message(delivery))
    assert_fits(message(delivery))
    listed = sum(each["type"] == "Container" for each in card["body"][1:])
    if more := len(entries) - listed:
        assert [text for text in texts(card) if f"and {more:,} more, not listed here" in text]


def test_a_notice_that_is_all_quotes_with_many_kinds_and_facts_still_fits():
    worst = '"\\&lt;' * 100
    entries = tuple(
        replace(Entry.from_json({"title": worst, "time": worst, "state": f"{n}{worst}"}), id=str(n))
        for n in range(1000)
    )
    kinds = kinds_of(entries)
    notice = Notice(
        title=worst,
        severity=Severity.ERROR,
        sentence=worst * 20,
        facts=(*((kind.words, "1") for kind in kinds), *((worst, worst) for _ in range(500))),
        remarks=(worst, worst, worst),
        link=Link("Open", "https://ml.azure.com/" + '"' * 1900),
        thread="0",
        event_id=worst,
        kinds=kinds,
        entries=entries,
    )
    made = message_of(notice, key="k" * 64)
    assert_fits(made)
    assert f"{1000 - 10:,} of 990 other kinds" in texts(card_in(made))
    assert isinstance(kinds[0], Kind)
