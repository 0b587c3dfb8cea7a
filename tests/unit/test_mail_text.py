"""mail_text.py and mail_csv.py: what a mail says, whatever carries it."""

import csv
import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliveries import ELEMENT, delivery_of
from tests.emails import HOSTILE, RUN, digest, digest_of, hostile_delivery
from worker.events import DIGEST_TYPE
from worker.sinks.mail_text import Mail, render

STAMP = re.compile(r"\[(ERROR|WARNING|SUCCESS|INFO)\] ")


def rows_of(mail: Mail) -> list[dict[str, str]]:
    [attached] = mail.attachments
    assert (attached.name, attached.content_type) == ("events.csv", "text/csv")
    return list(csv.DictReader(io.StringIO(attached.content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize(
    ("status", "word", "colour"),
    [
        ("Failed", "ERROR", "#c50f1f"),
        ("Canceled", "WARNING", "#b85c00"),
        ("Completed", "SUCCESS", "#107c10"),
        ("Running", "INFO", "#0a66c2"),
    ],
)
def test_how_much_it_matters_is_said_in_a_word_and_a_colour(status, word, colour):
    mail = render(delivery_of(RUN | {"data": {"runStatus": status}}))
    assert mail.text.startswith(f"[{word}] ")
    assert f">{word}</span>" in mail.html
    assert f"border-top:6px solid {colour}" in mail.html


def test_a_single_event_has_its_link_facts_and_data_and_no_attachment():
    mail = render(delivery_of(RUN, late_by_ms=5300))
    assert mail.subject == "Run Failed: churn-nightly / churn-nightly_1718_0042"
    assert "Open the run: https://ml.azure.com/runs/churn-nightly_1718_0042?wsid=" in mail.text
    assert 'href="https://ml.azure.com/runs/churn-nightly_1718_0042?wsid=' in mail.html
    assert "Workspace:       fraud" in mail.text.splitlines()
    assert '  "runStatus": "Failed"' in mail.text
    assert "This is late" in mail.html
    assert mail.attachments == ()


@pytest.mark.parametrize("count", [1, 3, 200, 201, 1000])
def test_a_digest_shows_at_most_200_events_says_how_many_are_left_and_attaches_all(count):
    mail = render(digest(count))
    assert [row["id"] for row in rows_of(mail)] == [f"event-{number}" for number in range(count)]
    assert mail.html.count('style="color:#0a66c2">') == min(count, 200)
    left = f"and {count - 200:,} more, all in the attachment"
    assert (left in mail.text, left in mail.html) == (count > 200, count > 200)
    assert len(mail.html) < 200_000


def test_a_digest_counts_its_kinds_and_says_of_each_event_what_is_known_of_its_order():
    mail = render(digest(8))
    assert "       4  Run Failed" in mail.text.splitlines()
    assert "Completed, 2026-11-27 03:00:03 UTC, late by 5.3 s" in mail.text
    assert "Canceled · 2026-11-27 03:00:02 UTC · superseded" in mail.html
    assert '"lateby": ' not in mail.text  # the data are the list, and stand nowhere else


def test_many_kinds_are_cut_and_counted():
    events = [delivery_of(ELEMENT | {"id": f"e{n}", "eventType": f"Shop.Thing{n}"}) for n in range(50)]
    mail = render(digest_of(events))
    assert "and 30 other kinds" in mail.text
    assert "and 30 other kinds" in mail.html


@pytest.mark.parametrize("data", [None, [], {"events": "none"}, {"events": []}, b"\xff", "text"])
def test_an_event_that_only_looks_like_a_digest_is_told_like_any_other(data):
    single = delivery_of()
    event = replace(single.released.placed.event, type=DIGEST_TYPE, data=data)
    placed = replace(single.released.placed, event=event)
    mail = render(replace(single, released=replace(single.released, placed=placed)))
    assert mail.attachments == ()
    assert "Data:" in mail.text


def test_a_row_of_a_digest_is_a_link_only_where_it_leads_to_a_web_page():
    row = {"id": "e", "type": "T", "title": "t", "key": "k", "severity": "error"}
    urls = ["https://ml.azure.com/x", "javascript:alert(1)", "https://a b", "https://a\n", "https://" + "a" * 2000]
    mail = render(digest_of([delivery_of()], events=[row | {"url": url} for url in urls]))
    assert re.findall(r'<td [^>]*><a href="([^"]*)"', mail.html) == ["https://ml.azure.com/x"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_of_the_list_is_a_formula(start):
    row = {"id": f"{start}1", "type": "T", "subject": f'{start}HYPERLINK("x")', "title": "a=b", "key": "k"}
    [cells] = rows_of(render(digest_of([delivery_of()], events=[row])))
    assert (cells["id"], cells["subject"]) == (f"'{start}1", f'\'{start}HYPERLINK("x")')
    assert cells["title"] == "a=b"


def test_the_list_is_one_row_for_each_event_whatever_its_texts_hold():
    rows = [{"id": HOSTILE, "type": '",\r\n"', "title": "ü☃", "key": "k"}] * 3
    assert len(rows_of(render(digest_of([delivery_of()], events=rows)))) == 3


def test_hostile_text_stays_text():
    for mail in (render(hostile_delivery()), render(digest_of([hostile_delivery()] * 3))):
        assert "\n" not in mail.subject
        assert not re.search(r"<(script|img)", mail.html)
        assert "{{ 7*7 }}" in mail.html
        assert not [c for c in mail.text + mail.html if c != "\n" and not c.isprintable()]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.text(), st.text(), st.text(min_size=1), JSON)
def test_whatever_an_event_holds_every_line_is_ours_or_set_in_and_every_tag_is_ours(subject, source, kind, data):
    event = ELEMENT | {"subject": subject, "topic": source, "eventType": kind, "data": data}
    mail = render(delivery_of(event))
    head, _, rest = mail.text.partition("\nData:\n")
    assert STAMP.match(head)
    assert [row for row in rest.partition("\n--\n")[0].splitlines() if row[:1] > " "] == []
    plain = render(delivery_of(ELEMENT | {"subject": None, "topic": None, "eventType": "T", "data": None}))
    assert set(re.findall(r"<(/?\w+)", mail.html)) <= set(re.findall(r"<(/?\w+)", plain.html)) | {"a", "/a"}
    assert render(delivery_of(event)) == mail
