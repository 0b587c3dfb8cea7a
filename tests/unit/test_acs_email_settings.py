import pytest
from pydantic import ValidationError

from worker.sinks.acs_email import AcsEmailSettings

GOOD = {
    "name": "oncall",
    "kind": "acs_email",
    "connection_string_env": "ACS",
    "from": "ml@mail.example.org",
    "to": ["a@example.org"],
}
ENDPOINT = "https://ml.communication.azure.com"
BY_KEY = {"connection_string_env": None, "access_key_env": "ACS_KEY", "endpoint": ENDPOINT}
BY_IDENTITY = {"connection_string_env": None, "auth": "identity", "endpoint": ENDPOINT}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"connection_string_env": None, "connection_string_file": "/run/secrets/acs"},
        BY_KEY,
        BY_IDENTITY,
        BY_IDENTITY | {"scope": "https://communication.azure.us//.default"},
        BY_KEY | {"endpoint": f"{ENDPOINT}/"},
        BY_KEY | {"endpoint": "http://127.0.0.1:8080"},
        BY_KEY | {"endpoint": "http://acs.internal:8080", "allow_private": True},
        BY_KEY | {"endpoint": "https://10.0.0.1", "allow_private": True},
        {"to": [f"a{n}@example.org" for n in range(48)], "cc": ["b@example.org"], "bcc": ["c@example.org"]},
        {"reply_to": ["team@example.org"]},
        {"api_version": "2026-03-01-preview"},
        {"on_unknown": "verify"},
        {"on_unknown": "skip"},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = AcsEmailSettings.model_validate(GOOD | change)
    assert settings.uses_ledger
    assert settings.needs_identity == (change.get("auth") == "identity")


def test_what_is_left_out_has_a_careful_value():
    settings = AcsEmailSettings.model_validate(GOOD)
    assert (settings.concurrency, settings.timeout_seconds, settings.attempt_seconds) == (2, 30, 50)
    assert (settings.api_version, settings.user_engagement_tracking_disabled) == ("2025-09-01", True)
    assert settings.token_scope == "https://communication.azure.com//.default"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"connection_string_env": None}, (), "one of connection_string_env, connection_string_file, access_key_env"),
        ({"access_key_env": "B"}, (), "connection_string_env and access_key_env exclude each other"),
        ({"endpoint": ENDPOINT}, (), "the connection string says the endpoint; remove endpoint"),
        (BY_KEY | {"endpoint": None}, (), "add endpoint: https://NAME.communication.azure.com"),
        (BY_IDENTITY | {"endpoint": None}, (), "add endpoint: https://NAME.communication.azure.com"),
        (BY_IDENTITY | {"access_key_env": "A"}, (), "auth: identity needs no access_key_env"),
        ({"scope": "https://example.org/.default"}, (), "scope is for auth: identity"),
        (BY_IDENTITY | {"scope": "two words"}, ("scope",), "should match pattern"),
        ({"auth": "password"}, ("auth",), "'key' or 'identity'"),
        (BY_KEY | {"endpoint": "ml.communication.azure.com"}, ("endpoint",), "begin with https:// and a host"),
        (BY_KEY | {"endpoint": "http://ml.communication.azure.com"}, ("endpoint",), "without encryption"),
        (BY_KEY | {"endpoint": "https://10.0.0.1"}, ("endpoint",), "allow_private: true permits it"),
        (BY_KEY | {"endpoint": f"{ENDPOINT}/emails:send"}, ("endpoint",), "goes on after the host"),
        (BY_KEY | {"endpoint": f"{ENDPOINT}/?sig=hidden"}, ("endpoint",), "goes on after the host"),
        (BY_KEY | {"endpoint": f"endpoint={ENDPOINT}/;accesskey=hidden"}, ("endpoint",), "begin with https://"),
        ({"from": "ML <ml@example.org>"}, ("from",), "the service takes the name from the sender's entry"),
        ({"from": "ml"}, ("from",), "is no bare address; write name@example.org"),
        ({"to": []}, ("to",), "names nobody; write at least one address"),
        ({"to": ["Ops <a@example.org>"]}, ("to",), "is no e-mail address; write name@example.org"),
        ({"to": ["a@example.org", "A@example.org"]}, ("to",), "names 'A@example.org' twice; keep one"),
        ({"bcc": ["a@example.org"]}, (), "names 'a@example.org' twice; keep one"),
        ({"cc": ["a@example.org\r\nx"]}, ("cc",), "is no e-mail address"),
        ({"reply_to": ["x"]}, ("reply_to",), "is no e-mail address"),
        (
            {"to": [f"a{n}@example.org" for n in range(40)], "bcc": [f"b{n}@example.org" for n in range(11)]},
            (),
            "name 51 recipients, and the service takes 50; write to a distribution list",
        ),
        ({"text_template": "{{ nobody }}"}, ("text_template",), "the template cannot be filled in with a sample event"),
        ({"api_version": "latest"}, ("api_version",), "should match pattern"),
        ({"access_key": "hidden"}, ("access_key",), "Extra inputs"),
        ({"sender": "ml@example.org"}, ("sender",), "Extra inputs"),
        ({"timeout_seconds": 0}, ("timeout_seconds",), "greater than 0"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_repeats_no_secret(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        AcsEmailSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("connection_string", "hidden", "is not of the form endpoint=https://…;accesskey=…"),
        ("connection_string", f"endpoint={ENDPOINT}/;accesskey=hidden!", "the access key is not base64"),
        ("connection_string", "endpoint=http://acs.internal/;accesskey=aGlkZGVu", "the connection string's endpoint: "),
        ("access_key", "hidden!", "the access key is not base64"),
    ],
)
def test_worker_check_looks_at_the_secret_and_repeats_none_of_it(key, value, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        AcsEmailSettings.model_validate(GOOD).check_secret(key, value)
    assert "hidden" not in str(refused.value)
    assert "aGlkZGVu" not in str(refused.value)


def test_a_secret_that_can_be_right_is_accepted():
    settings = AcsEmailSettings.model_validate(GOOD)
    settings.check_secret("connection_string", f"endpoint={ENDPOINT}/;accesskey=aGlkZGVu")
    settings.check_secret("access_key", "aGlkZGVu")
