"""The page about webhooks says what the settings say, and its receiver verifies what is signed."""

import base64
import re
import time
from pathlib import Path

import pytest
import yaml

from worker.settings import SinkSettings
from worker.sinks.signing import signed, signing_key
from worker.sinks.webhook_settings import BatchSettings, WebhookSettings

PAGE = (Path(__file__).parents[2] / "docs" / "sinks" / "webhook.md").read_text()


def test_every_key_of_the_kind_has_its_row():
    own = WebhookSettings.model_fields.keys()
    common = SinkSettings.model_fields.keys() - {"concurrency", "on_unknown"}
    table = PAGE.partition("## Keys")[2].partition("## Errors")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)", row)}
    assert named == own - common


def test_the_values_it_names_are_those_that_hold():
    settings = WebhookSettings.model_validate({"name": "a", "url": "https://a.example.org", "handshake": True})
    batch, handshake = BatchSettings(), settings.handshake
    assert f"| `batch.events`, `batch.bytes` | {batch.events}, {batch.bytes} |" in PAGE
    assert f"| `timeout_seconds` | {settings.timeout_seconds:g} |" in PAGE
    assert f"| `concurrency` | {settings.concurrency} |" in PAGE
    assert handshake is not None
    assert f"The name is `{handshake.origin}`" in PAGE


def test_its_example_is_a_configuration_that_is_taken():
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert [WebhookSettings.model_validate(each).name for each in yaml.safe_load(block)["sinks"]] == ["out"]


@pytest.mark.parametrize("secret", ["a plain secret", "whsec_" + base64.b64encode(b"k" * 32).decode()])
def test_its_receiver_verifies_what_is_signed_and_nothing_else(secret):
    [code, *_] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(code, names)
    verify, now = names["verify"], time.time()
    body = b'{"id": "e1"}'

    def headers(*secrets: str, at: float = now) -> dict[str, str]:
        keys = [signing_key(each) for each in secrets]
        return {"webhook-id": "key"} | signed(keys, message_id="key", body=body, at=at)

    assert verify(secret, headers(secret), body)
    assert verify(secret, headers("new", secret), body)
    assert verify(secret, headers(secret, "old"), body)
    assert not verify(secret, headers("another"), body)
    assert not verify(secret, headers(secret), body + b" ")
    assert not verify(secret, headers(secret) | {"webhook-id": "another"}, body)
    assert not verify(secret, headers(secret, at=now - 400), body)
