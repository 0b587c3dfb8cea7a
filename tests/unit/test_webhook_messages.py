"""What is sent in each mode, against examples written from the CloudEvents HTTP binding 1.0.2; and signatures."""

import base64
import hashlib
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.deliveries import ELEMENT, delivery_of
from tests.standard_webhooks import verify
from worker.errors import Rejected
from worker.sinks.cloudevents import structured
from worker.sinks.signing import signed, signing_key
from worker.sinks.webhook_messages import (
    Member,
    batch_message,
    binary_message,
    fitting,
    member_of,
    structured_message,
)

EVENT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
    "datacontenttype": "application/json; charset=utf-8",
    "data": {"a": [1, "ü"]},
}


def test_structured_is_the_event_as_json():
    message = structured_message(delivery_of(EVENT))
    assert message.headers == {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert orjson.loads(message.body) == EVENT


# --- binary


def test_binary_has_the_attributes_as_headers_and_the_data_as_it_is():
    delivery = delivery_of(EVENT)
    message = binary_message(delivery)
    assert message.id == delivery.idempotency_key
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-type": "com.example.someevent",
        "ce-time": "2018-04-05T03:56:24Z",
        "ce-id": "1234-1234-1234",
        "ce-source": "/mycontext/subcontext",
        "Content-Type": "application/json; charset=utf-8",
    }
    assert message.body == '{"a":[1,"ü"]}'.encode()


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ('say "100%"', "say%20%22100%25%22"),
        ("already%20encoded", "already%2520encoded"),
        ("line\r\nX-Evil: 1", "line%0D%0AX-Evil:%201"),
        ("!#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("\u007f\u0085", "%7F%C2%85"),
    ],
)
def test_what_headers_cannot_hold_is_percent_encoded(value, header):
    assert binary_message(delivery_of(EVENT | {"subject": value})).headers["ce-subject"] == header


@given(st.text(min_size=1).filter(lambda text: text.strip() and text.encode(errors="ignore").decode() == text))
def test_a_receiver_that_decodes_once_has_the_attribute_again(text):
    header = binary_message(delivery_of(EVENT | {"subject": text})).headers["ce-subject"]
    assert header.isascii()
    assert header.isprintable()
    assert " " not in header
    assert unquote_to_bytes(header).decode() == text


def test_extensions_and_what_the_worker_says_are_headers_too():
    headers = binary_message(delivery_of(EVENT | {"retries": 3, "sampled": True}, late_by_ms=1500)).headers
    assert (headers["ce-retries"], headers["ce-sampled"], headers["ce-lateby"]) == ("3", "true", "1500")


@pytest.mark.parametrize(
    ("change", "media_type", "body"),
    [
        ({"data": None}, "application/json; charset=utf-8", b""),
        ({"data": None, "datacontenttype": None}, None, b""),
        ({"datacontenttype": None}, "application/json", '{"a":[1,"ü"]}'.encode()),
        ({"data": "text"}, "application/json; charset=utf-8", b'"text"'),
        ({"data": "<ü/>", "datacontenttype": "application/xml"}, "application/xml", "<ü/>".encode()),
        ({"data": "ü", "datacontenttype": 'text/plain; charset="latin-1"'}, 'text/plain; charset="latin-1"', b"\xfc"),
        ({"data": "", "datacontenttype": "text/plain"}, "text/plain", b""),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, "text/plain", b'{"a":1}'),
        ({"data": "x", "datacontenttype": "application/problem+json"}, "application/problem+json", b'"x"'),
        ({"data": None, "data_base64": "AP8=", "datacontenttype": "image/png"}, "image/png", b"\x00\xff"),
        ({"data": None, "data_base64": "AP8=", "datacontenttype": None}, "application/octet-stream", b"\x00\xff"),
    ],
)
def test_the_body_is_the_data_and_its_type_the_content_type(change, media_type, body):
    element = {name: value for name, value in (EVENT | change).items() if value is not None}
    message = binary_message(delivery_of(element))
    assert message.headers.get("Content-Type") == media_type
    assert message.body == body
    assert "ce-datacontenttype" not in message.headers
    assert not {"ce-data", "ce-data_base64"} & message.headers.keys()


def test_an_event_in_event_grids_own_schema_is_json():
    message = binary_message(delivery_of())
    assert message.headers["Content-Type"] == "application/json"
    assert message.headers["ce-type"] == ELEMENT["eventType"]
    assert orjson.loads(message.body) == ELEMENT["data"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"datacontenttype": "text/plain\r\nX-Evil: 1"}, "cannot stand in a header"),
        ({"datacontenttype": "text/plain; ü"}, "cannot stand in a header"),
        ({"datacontenttype": " "}, "cannot stand in a header"),
        ({"datacontenttype": "application/cloudevents+json"}, "is itself a CloudEvent"),
        ({"datacontenttype": "text/plain; charset=nonsense", "data": "x"}, "charset"),
        ({"datacontenttype": "text/plain; charset=rot13", "data": "x"}, "charset"),
        ({"datacontenttype": "text/plain; charset=ascii", "data": "ü"}, "charset"),
    ],
)
def test_what_binary_mode_cannot_say_is_rejected(change, reason):
    with pytest.raises(Rejected, match=reason):
        binary_message(delivery_of(EVENT | change))


# --- batches


def test_a_batch_is_an_array_of_events_that_each_carry_their_key():
    deliveries = [delivery_of(EVENT | {"id": f"e{number}"}) for number in range(3)]
    message = batch_message([member_of(each) for each in deliveries])
    assert message.headers == {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
    keys = [each.idempotency_key for each in deliveries]
    assert orjson.loads(message.body) == [
        structured(each) | {"idempotencykey": key} for each, key in zip(deliveries, keys, strict=True)
    ]
    assert message.id == hashlib.sha256(orjson.dumps(keys)).hexdigest()


def test_its_id_is_that_of_these_events_in_this_order():
    one, two = (Member(key, b"{}") for key in ("k1", "k2"))
    ids = {batch_message(members).id for members in ([one], [two], [one, two], [two, one])}
    assert len(ids) == 4
    assert batch_message([one, two]).id == batch_message([one, two]).id


@given(st.lists(st.integers(2, 300), min_size=1), st.integers(1, 1000))
def test_no_batch_is_larger_than_it_may_be_unless_it_is_one_event(sizes, most_bytes):
    members = [Member("k", b"x" * size) for size in sizes]
    count = fitting(members, most_bytes=most_bytes)
    assert 1 <= count <= len(members)
    assert count == 1 or len(batch_message(members[:count]).body) <= most_bytes
    assert count == len(members) or len(batch_message(members[: count + 1]).body) > most_bytes


# --- signatures


def test_the_receivers_check_accepts_the_published_example():
    """Of the specification's reference libraries."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert verify(secret, headers, body, now=1614265400)
    assert not verify(secret, headers, body + b" ", now=1614265400)
    assert not verify(secret, headers, body, now=1614265330 + 301)
    assert not verify("whsec_" + base64.b64encode(b"other").decode(), headers, body, now=1614265400)


@given(st.binary(), st.sampled_from(["plain", "whsec_" + base64.b64encode(b"k" * 32).decode(), "ü"]))
def test_what_is_signed_verifies(body, secret):
    headers = {"webhook-id": "id"} | signed([signing_key(secret)], message_id="id", body=body, at=1000.9)
    assert headers["webhook-timestamp"] == "1000"
    assert verify(secret, headers, body, now=1000)


def test_with_two_secrets_it_carries_two_signatures_the_new_one_first():
    keys = [signing_key("new"), signing_key("old")]
    headers = {"webhook-id": "id"} | signed(keys, message_id="id", body=b"{}", at=1000)
    assert all(verify(secret, headers, b"{}", now=1000) for secret in ("new", "old"))
    assert not verify("other", headers, b"{}", now=1000)
    first, second = headers["webhook-signature"].split(" ")
    assert first == signed(keys[:1], message_id="id", body=b"{}", at=1000)["webhook-signature"]
    assert second.startswith("v1,")


def test_without_a_secret_there_is_no_signature():
    assert signed([], message_id="id", body=b"", at=0) == {}


@pytest.mark.parametrize("secret", ["whsec_", "whsec_hidden!"])
def test_a_secret_that_is_no_base64_is_told_without_repeating_it(secret):
    with pytest.raises(ValueError, match="not base64") as refused:
        signing_key(secret)
    assert "hidden" not in str(refused.value)
