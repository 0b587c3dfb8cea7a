"""expect.py: what a rule looks at, and by what two events belong together."""

from typing import Any

import orjson
import pytest

from tests.unit.configurations import ROUTES, loaded
from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.expect import ExpectRule, NoKey, of_one_subject, time_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rule(section: str) -> ExpectRule:
    (found,) = loaded(routes=f"{ROUTES}expect:\n  - {{name: a, {section}}}\n").routing.expect
    return found


def event(type_: str = "Some.Type", topic: str | None = "/Some/Topic", data: Any = None, **more: Any) -> Event:
    content = {"id": "1", "eventType": type_, "topic": topic, "subject": "s", "data": data, **more}
    (decoded,) = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(7.0), orjson.dumps(content)))
    assert isinstance(decoded, Event)
    return decoded


PAIR = "after: {includedEventTypes: [A]}, then: {includedEventTypes: [B]}, within: 90m"


def test_a_rule_over_one_subject():
    found = rule(PAIR)
    assert found.is_of_one_subject
    assert (found.seconds, found.written) == (5400, "90m")
    assert found.begins_with(event("a"))
    assert not found.begins_with(event("B"))
    assert found.is_met_by(event("B"))
    assert not found.is_met_by(event("A"))
    assert not found.is_sign_of_life(event("A"))


def test_it_looks_at_the_sources_that_it_names_in_any_case_and_with_or_without_a_slash():
    found = rule(f"sources: [/some/topic/], {PAIR}")
    assert found.begins_with(event("A"))
    assert not found.begins_with(event("A", "/other"))
    assert not found.begins_with(event("A", None))


def test_it_never_looks_at_what_the_worker_says_of_what_was_missed():
    found = rule("after: {}, then: {}, within: 1s")
    assert found.begins_with(event("A"))
    assert not found.begins_with(event("worker.expectationmissed"))


def test_silence():
    found = rule("sources: [/Some/Topic], events: {includedEventTypes: [A]}, every: 1d")
    assert found.is_silence
    assert not found.is_of_one_subject
    assert not found.is_across_subjects
    assert found.listed == ("/Some/Topic",)
    assert found.seconds == 86_400
    assert found.is_sign_of_life(event("A"))
    assert not found.is_sign_of_life(event("B"))
    assert rule("sources: [/Some/Topic], every: 1d").is_sign_of_life(event("B"))


def test_one_text_for_both_events():
    correlation = rule(f"{PAIR}, correlate: '{{{{ event.data.name }}}}'").correlation
    assert correlation
    assert correlation.after_key(event(data={"Name": " m "})) == "m"
    assert correlation.then_keys(event(data={"Name": 7})) == ("7",)
    assert not correlation.any_source


MODELS = (
    'correlate: {after: "{{ event.data.modelName }}:{{ event.data.modelVersion }}", '
    'then: "{{ event.data.modelIds }}", split: ",", any_source: true}'
)


def test_a_second_event_may_have_several_keys():
    found = rule(f"{PAIR}, {MODELS}")
    assert found.is_across_subjects
    correlation = found.correlation
    assert correlation
    assert correlation.any_source
    assert correlation.after_key(event(data={"modelName": "m", "modelVersion": 3})) == "m:3"
    assert correlation.then_keys(event(data={"ModelIds": "m:3, n:1,,m:3"})) == ("m:3", "n:1")
    assert correlation.then_keys(event(data={"modelIds": ["m:3", "n:1"]})) == ("m:3", "n:1")


@pytest.mark.parametrize("data", [{}, {"modelIds": ""}, {"modelIds": " , "}, {"modelIds": [{}]}, {"modelIds": None}])
def test_a_second_event_without_a_key(data):
    correlation = rule(f"{PAIR}, {MODELS}").correlation
    assert correlation
    with pytest.raises(NoKey):
        correlation.then_keys(event(data=data))


@pytest.mark.parametrize("data", [{}, {"modelName": []}, {"modelName": ["a", "b"]}, {"modelName": ""}])
def test_a_first_event_without_one_key(data):
    correlation = rule(f"{PAIR}, correlate: '{{{{ event.data.modelName }}}}'").correlation
    assert correlation
    with pytest.raises(NoKey):
        correlation.after_key(event(data=data))


def test_the_rules_of_one_subject_are_picked_out():
    both = loaded(
        routes=f"{ROUTES}expect:\n  - {{name: a, {PAIR}}}\n  - {{name: b, every: 1h, sources: [/x]}}\n"
    ).routing.expect
    assert [each.name for each in of_one_subject(both)] == ["a"]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-02T01:00:00.5+01:00", 86_400.5),
        ("2026-01-01T00:00:00.0000000Z", 1_767_225_600.0),
        ("2026-01-01T00:06:40Z", 1_767_226_000.0),
        ("2026-01-01T00:06:41Z", 1_767_225_700.0),
        ("9999-12-31T23:59:59Z", 1_767_225_700.0),
        ("yesterday", 1_767_225_700.0),
        (None, 1_767_225_700.0),
    ],
)
def test_the_time_of_an_event_is_its_own_or_else_when_the_hub_had_it(time, seconds):
    assert time_of(event(eventTime=time), UnixSeconds(1_767_225_700.0)) == seconds


# --- in words


def said(found: ExpectRule, asked: Event) -> list[tuple[str, bool, str]]:
    assert all((each.rule, each.time) == ("a", found.written) for each in found.explain(asked))
    return [(each.part, each.matched, each.reason) for each in found.explain(asked)]


def test_a_rule_says_whether_an_event_begins_or_meets_it_and_why():
    assert said(rule(PAIR), event("A")) == [
        ("after", True, "includedEventTypes names the type"),
        ("then", False, 'the type is "A", which includedEventTypes does not name'),
    ]
    assert [each[1] for each in said(rule("after: {}, then: {}, within: 1h"), event("B"))] == [True, True]


def test_a_rule_says_why_it_does_not_look_at_an_event_at_all():
    found = rule(f"sources: [/x], {PAIR}")
    not_listed = "the source /Some/Topic is not listed, and the rule looks only at events from its `sources`"
    none = "the event has no source, and the rule looks only at events from its `sources`"
    assert said(found, event("A")) == [("after", False, not_listed), ("then", False, not_listed)]
    assert said(found, event("A", None)) == [("after", False, none), ("then", False, none)]
    assert {each[2] for each in said(rule("after: {}, then: {}, within: 1h"), event("Worker.ExpectationMissed"))} == {
        "the worker made the event itself, and expects nothing of its own"
    }


def test_a_rule_on_silence_says_what_is_a_sign_of_life():
    assert said(rule("sources: [/some/topic], every: 1h"), event()) == [("events", True, "every event is one")]
    assert said(rule("sources: [/some/topic], every: 1h, events: {includedEventTypes: [A]}"), event()) == [
        ("events", False, 'the type is "Some.Type", which includedEventTypes does not name')
    ]


def test_a_rule_across_subjects_says_the_keys_or_why_there_is_none():
    correlate = "correlate: {after: '{{ event.data.one }}', then: '{{ event.data.many }}', split: ','}"
    found = rule(f"after: {{}}, then: {{}}, {correlate}, within: 1h")
    every = "the filter accepts every event"
    assert said(found, event(data={"one": "m:1", "many": "m:1, m:2"})) == [
        ("after", True, f'{every}; its key is "m:1"'),
        ("then", True, f'{every}; it follows on "m:1", "m:2"'),
    ]
    (after, then) = said(found, event(data={"one": "", "many": ",".join(map(str, range(9)))}))
    assert after == ("after", False, f"{every}; but correlate.after gives 0 keys, and a first event has one")
    assert then == ("then", True, f'{every}; it follows on "0", "1", "2", "3", "4" and 4 more')


@pytest.mark.parametrize("asked", [event("A"), event("B"), event("C"), event("A", None), event("B", "/other")])
@pytest.mark.parametrize("section", [PAIR, f"sources: [/some/topic], {PAIR}", "sources: [/Some/Topic], every: 1h"])
def test_the_words_agree_with_what_happens(section, asked):
    found = rule(section)
    assert {each.part: each.matched for each in found.explain(asked)} == (
        {"events": found.is_sign_of_life(asked)}
        if found.is_silence
        else {"after": found.begins_with(asked), "then": found.is_met_by(asked)}
    )
