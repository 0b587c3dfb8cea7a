"""JSON values with templates in them: types, names in any case, and mistakes that say where they are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.deliveries import ELEMENT, delivery_of
from worker.errors import Rejected
from worker.sinks.patterns import Pattern, TemplateText, TemplateValue
from worker.sinks.templating import BrokenTemplate

DATA = {
    "modelName": "churn",
    "ModelVersion": "007",
    "driftCoefficient": 0.83,
    "count": 3,
    "flag": True,
    "nothing": None,
    "modelTags": {"stage": "production", "Stage": "other"},
    "list": [{"Name": "first"}, 2],
    "items": 5,
}
DELIVERY = delivery_of(ELEMENT | {"data": DATA})


def filled(value: object) -> object:
    return Pattern(value).fill(DELIVERY)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("plain", "plain"),
        ("{{ event.data.modelName }}-{{ event.data.modelVersion }}", "churn-007"),
        ("{{ event.data.driftCoefficient }}", 0.83),
        (" {{ event.data.count }} ", 3),
        ("{{ event.data.count + 1 }}", 4),
        ("n={{ event.data.count }}", "n=3"),
        ("{{ event.data.flag }}", True),
        ("{{ event.data.nothing }}", None),
        ("{{ event.data.modelVersion }}", "007"),
        ("{{ event.data.MODELNAME }}", "churn"),
        ("{{ event.data.modelTags.stage }}", "production"),
        ("{{ event.data.modelTags.Stage }}", "other"),
        ("{{ event.data['modelTags']['STAGE'] }}", "production"),
        ("{{ event.data.list[0].name }}", "first"),
        ("{{ event.data['items'] }}", 5),
        (
            "{% for name, value in event.data.modelTags.items() %}{{ name }}={{ value }} {% endfor %}",
            "stage=production Stage=other ",
        ),
        ("{{ event.data.modelTags }}", {"stage": "production", "Stage": "other"}),
        ("{{ event.data.modelTags | tojson }}", '{"Stage": "other", "stage": "production"}'),
        ("{{ event.data.missing | default('none') }}", "none"),
        ("{% for event in event.data.list[:1] %}{{ event.name }}{% endfor %}", "first"),
        ("{{ event.id }} {{ event.type }} {{ event.subject }}", f"e1 {ELEMENT['eventType']} {ELEMENT['subject']}"),
        ("{{ event.source }}", ELEMENT["topic"]),
        ("{{ event.time }}", ELEMENT["eventTime"]),
        ("{{ delivery.idempotency_key }}", DELIVERY.idempotency_key),
        ("{{ delivery.route }}/{{ delivery.sink }}", "all/out"),
        ("{{ delivery.late_by_ms }}", None),
        ("{{ notice.title }}", "Run changed: exp"),
        ("{% if event.data.flag %}yes{% endif %}", "yes"),
        ({"a": ["{{ event.data.count }}", 1, None, True], "b": {"c": "{{ event.id }}"}}, None),
        (12, 12),
    ],
)
def test_texts_are_filled_in_and_one_expression_keeps_its_type(value, result):
    if isinstance(value, dict):
        result = {"a": [3, 1, None, True], "b": {"c": "e1"}}
    if value == "{{ notice.title }}":
        assert isinstance(filled(value), str)
    else:
        assert (filled(value), type(filled(value)) is type(result) or isinstance(result, dict)) == (result, True)


ODD_NAMES = {"items": [1], "get": "g", "metric": "NaN", "count": 5, "list": ["a", "b"]}


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("{{- event.data.count }}", 5),  # no -5
        ("{{ event.data.count -}}", 5),
        ("{{+ event.data.count }}", 5),
        ("{{ -event.data.count }}", -5),
        ("{{ event.data['items'] }}", [1]),
        ("{{ 'COUNT' in event.data }}", True),
        ("{{ 'other' in event.data }}", False),
        ("{{ event.data.get('COUNT') }}", 5),
        ("{{ event.data.get('other', 7) }}", 7),
        ("{{ event.data.list | map('upper') | list }}", ["A", "B"]),
        ("{{ event.data.list | map('upper') | join('+') }}", "A+B"),
    ],
)
def test_names_and_marks_are_what_an_operator_takes_them_for(value, result):
    assert Pattern(value).fill(delivery_of(ELEMENT | {"data": ODD_NAMES})) == result


@pytest.mark.parametrize("around", ["", "x "])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{{ event.data.items }}", r"items is a method here; write \['items'\]"),
        ("{{ event.data.get }}", "get is a method here"),
        ("{{ event.data.list | map('upper') }}", "generator, .* join"),
        ("{{ event.data.list | batch(1) }}", "generator"),
        ("{{ notice }}", "name one of its fields"),
        ("{{ event.data.items.nothing }}", "nothing"),
    ],
)
def test_what_has_no_text_but_an_address_is_rejected_because_the_next_attempt_would_say_another(around, value, words):
    with pytest.raises(Rejected, match=words):
        Pattern(around + value).fill(delivery_of(ELEMENT | {"data": ODD_NAMES}))


def test_what_is_no_number_does_not_become_null():
    with pytest.raises(Rejected, match="inputs: nan is no number in JSON"):
        Pattern("{{ event.data.metric | float }}", "inputs").fill(delivery_of(ELEMENT | {"data": ODD_NAMES}))


def test_an_events_data_are_looked_through_once_however_many_patterns_there_are():
    first, again, other = (
        Pattern("{{ event.data.modelTags }}").fill(each)
        for each in (DELIVERY, DELIVERY, delivery_of(ELEMENT | {"data": DATA}))
    )
    assert first is again
    assert other == first
    assert other is not first


def test_where_a_text_is_needed_a_number_becomes_its_digits():
    assert Pattern("{{ event.data.count }}").text(DELIVERY) == "3"
    assert Pattern("{{ event.data.nothing }}").text(DELIVERY) == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lr": "{{ event.data.rate }}"}, "inputs.lr: there is no rate in the event's data; .*default"),
        ("a {{ event.data.modelTags.who }}", "line 1: there is no who in the event's data; "),
        ("{{ notice.titel }}", "there is no titel in notice; "),
        ({"all": ["{{ event.data.list[7].x }}"]}, r"inputs.all\[0\]: "),
        ("{{ event.data.modelName.nothing.here }}", "nothing"),
        ("x {{ 1 / 0 }}", "inputs: line 1: division by zero"),
        ("{{ 1 / 0 }}", "inputs: division by zero"),
        ("{{ event.data.modelName.__class__.__mro__ }}", "inputs: "),
        ("{{ 2 ** 70 }}", "inputs: JSON cannot hold the value: Integer exceeds 64-bit range"),
        ("{{ event.data.items }}", r"inputs: items is a method here; write \['items'\]"),
        ("n={{ event.data.modelTags.values }}", "inputs: line 1: values is a method here"),
        ("{{ 'x' * 3000000 }} and more", "writes more than 2,000,000 characters"),
    ],
)
def test_what_cannot_be_filled_in_is_rejected_with_the_place_and_what_to_do(value, words):
    with pytest.raises(Rejected, match=f"sink out: .*{words}"):
        Pattern(value, "inputs").fill(DELIVERY)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": ["ok", "{{ event."]}, r"a\[1\]: line 1: "),
        ({"a": {"b": "{% if %}"}}, r"a\.b: line 1: "),
        ("{{ event.sbject }}", "there is no sbject in event; did you mean subject?"),
        ("{{ event.modelName | default('') }}", "there is no modelName in event; write event.data.modelName, or one"),
        ("a {{ delivery.key }}", "there is no key in delivery; there are route, sink, idempotency_key"),
        ("{{ evnt.id }}", "evnt is no name that templates know; did you mean event?"),
        ("{{ lipsum() }}", "lipsum is no name that templates know; there are event, delivery, notice"),
        ("{{ event.id | random }}", "random"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_with_its_place(value, words):
    with pytest.raises(BrokenTemplate, match=words):
        Pattern(value)


def test_settings_refuse_a_broken_template_when_they_are_read():
    class Some(BaseModel):
        name: TemplateText = ""
        inputs: TemplateValue = None

    Some(name="{{ event.id }}", inputs={"a": [1, "{{ event.id }}"]})
    with pytest.raises(ValidationError, match="the template cannot be read: a: line 1"):
        Some(inputs={"a": "{{"})
    with pytest.raises(ValidationError, match="the template cannot be read: "):
        Some(name="{{ nobody }}")


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_characters="{}#%", codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_JSON)
def test_a_value_without_templates_stays_what_it_is(value):
    assert json.dumps(Pattern(value).fill(DELIVERY)) == json.dumps(value)


@given(_JSON)
def test_an_events_value_comes_out_as_it_went_in(value):
    delivery = delivery_of(ELEMENT | {"data": {"it": value}})
    assert json.dumps(Pattern("{{ event.data.it }}").fill(delivery)) == json.dumps(value)


@given(_JSON)
def test_an_event_is_no_template(value):
    text = "{{ event.data.modelName }} {% raw %} {# x #}"
    delivery = delivery_of(ELEMENT | {"data": {"it": {"deep": [value, text]}}})
    assert Pattern("{{ event.data.it }}").fill(delivery)["deep"][1] == text
    assert Pattern("a {{ event.data.it.deep[1] }}").fill(delivery) == f"a {text}"
