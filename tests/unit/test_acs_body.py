"""What stands in a request, and what is left out of one that would be too large."""

import base64

import orjson
import pytest

from tests.deliveries import delivery_of
from worker.sinks.acs_body import MOST_BYTES, Envelope, request_body
from worker.sinks.mail_text import Attachment, Mail

ENVELOPE = Envelope("ml@example.org", ("a@example.org",), (), (), (), tracking_disabled=True)
SMALL = Mail("subject", "text\n", "<body>html</body>", (Attachment("a.csv", "text/csv", b"a,b\r\n"),))


def message(mail: Mail) -> dict:
    body = request_body(delivery_of(), mail, ENVELOPE)
    assert len(body) <= MOST_BYTES
    return orjson.loads(body)


def files(count: int, size: int) -> tuple[Attachment, ...]:
    return tuple(Attachment(f"{n}.bin", "application/octet-stream", bytes(size + n)) for n in range(count))


def test_an_attachment_goes_along_whole():
    sent = message(SMALL)
    assert sent["attachments"] == [
        {"name": "a.csv", "contentType": "text/csv", "contentInBase64": base64.b64encode(b"a,b\r\n").decode()}
    ]
    assert sent["content"] == {"subject": "subject", "plainText": "text\n", "html": "<body>html</body>"}


def test_what_fits_exactly_is_left_as_it_is():
    empty = len(request_body(delivery_of(), Mail("s", "", ""), ENVELOPE))
    fits = Mail("s", "x" * (MOST_BYTES - empty), "")
    assert len(request_body(delivery_of(), fits, ENVELOPE)) == MOST_BYTES
    assert "Left out" not in message(fits)["content"]["plainText"]


def test_one_byte_more_than_fits_is_too_much():
    empty = len(request_body(delivery_of(), Mail("s", "", "<p>"), ENVELOPE))
    sent = message(Mail("s", "x" * (MOST_BYTES - empty + 1), "<p>"))
    assert "html" not in sent["content"]


def test_the_largest_attachments_are_left_out_until_the_rest_fits_and_the_mail_says_which():
    sent = message(Mail("s", "text\n", "<body>html</body>", files(4, 2_500_000)))
    assert [each["name"] for each in sent["attachments"]] == ["0.bin", "1.bin"]
    note = "Left out, because the mail would be too large: 3.bin, 2.bin."
    assert sent["content"]["plainText"] == f"text\n\n{note}\n"
    assert sent["content"]["html"] == f"<body>html<p>{note}</p></body>"


def test_names_of_attachments_cannot_become_markup():
    large = Attachment("<b>.bin", "application/octet-stream", bytes(MOST_BYTES))
    assert "&lt;b&gt;.bin" in message(Mail("s", "t", "html without an end", (large,)))["content"]["html"]


def test_then_the_version_in_html_is_left_out():
    sent = message(Mail("s", "text\n", "<p>" + "ä" * MOST_BYTES, files(1, 100)))
    assert "attachments" not in sent
    assert sent["content"] == {
        "subject": "s",
        "plainText": "text\n\nLeft out, because the mail would be too large: the version in HTML, 0.bin.\n",
    }


@pytest.mark.parametrize("character", ["x", "ä", "😀", '"', "\x01"])
def test_at_last_the_text_is_cut_and_says_so(character):
    sent = message(Mail("s", character * 12_000_000, "<p>html"))
    text = sent["content"]["plainText"]
    assert text.startswith(character * 1000)
    assert "… cut here, after 1,000,000 of 12,000,000 characters" in text
    assert "Left out, because the mail would be too large: the version in HTML." in text


def test_the_same_delivery_gives_the_same_bytes():
    large = Mail("s", "t", "h", files(4, 2_500_000))
    assert request_body(delivery_of(), large, ENVELOPE) == request_body(delivery_of(), large, ENVELOPE)
