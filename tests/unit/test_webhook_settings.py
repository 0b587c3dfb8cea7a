import pytest
from pydantic import ValidationError

from worker.sinks.webhook_settings import WebhookSettings

GOOD = {"name": "out", "kind": "webhook", "url": "https://hooks.example.org/in"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"url": None, "url_env": "OUT_URL"},
        {"url": None, "url_file": "/run/secrets/url"},
        {"secret_env": "OUT_SECRET"},
        {"headers": {"X-Team": "ml"}, "headers_env": {"Authorization": "OUT_AUTH"}, "headers_file": {"X-Key": "key"}},
        {"url": "http://127.0.0.1:8080/in"},
        {"url": "http://internal/in", "allow_private": True},
        {"mode": "binary", "on_unknown": "skip", "accepts": [409, 404]},
        {"mode": "batched", "batch": {"events": 10, "bytes": 65536}},
        {"secret_env": "OUT_SECRET", "previous_secret_file": "old"},
        {"functions_key_env": "OUT_KEY"},
        {"handshake": True},
        {"handshake": {"origin": "worker.example.org"}},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    assert WebhookSettings.model_validate(GOOD | change).name == "out"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"url": None}, (), "one of url, url_env, url_file is needed"),
        ({"url_env": "OUT_URL"}, (), "url and url_env exclude each other"),
        ({"secret_env": "A", "secret_file": "b"}, (), "secret_env and secret_file exclude each other"),
        ({"url": "https://hooks.example.org/in?sig=hidden"}, ("url",), "put it into url_env or url_file"),
        ({"url": "https://user:hidden@hooks.example.org/"}, ("url",), "from headers_env"),
        ({"url": "http://hooks.example.org/hidden"}, ("url",), "use https://, or allow_private: true"),
        ({"url": "https://10.0.0.1/hidden"}, ("url",), "allow_private: true permits it"),
        ({"headers": {"authorization": "hidden"}}, ("headers",), "put it into headers_env or headers_file"),
        ({"headers": {"X-Key": "hidden\r\nX-Evil: 1"}}, ("headers",), "line break"),
        ({"headers": {"X Key": "hidden"}}, ("headers",), "not a header name"),
        ({"headers_env": {"Webhook-Id": "A"}}, ("headers_env",), "written by the sink itself"),
        ({"headers_file": {"Content-Type": "a"}}, ("headers_file",), "written by the sink itself"),
        ({"headers": {"X-Key": "hidden"}, "headers_env": {"x-key": "A"}}, (), "the header x-key is given twice"),
        ({"timeout_seconds": 0}, ("timeout_seconds",), "greater than 0"),
        ({"url": "https://f.azurewebsites.net/api/f?code=hidden"}, ("url",), "put that into functions_key_env"),
        ({"headers": {"X-Functions-Key": "hidden"}}, ("headers",), "put it into functions_key_env"),
        ({"functions_key_env": "A", "headers_env": {"X-Functions-Key": "B"}}, (), "x-functions-key is given twice"),
        ({"functions_key_env": "A", "functions_key_file": "b"}, (), "exclude each other"),
        ({"headers": {"ce-id": "hidden"}}, ("headers",), "written by the sink itself"),
        ({"headers_env": {"WebHook-Request-Origin": "A"}}, ("headers_env",), "written by the sink itself"),
        ({"previous_secret_env": "A"}, (), "add secret_env or secret_file"),
        ({"secret_env": "A", "previous_secret_env": "A", "previous_secret_file": "b"}, (), "exclude each other"),
        ({"mode": "array"}, ("mode",), "'structured', 'binary' or 'batched'"),
        ({"batch": {"events": 5}}, (), "add mode: batched"),
        ({"mode": "batched", "batch": {"events": 0}}, ("batch", "events"), "greater than or equal to 1"),
        ({"mode": "batched", "batch": {"events": "many"}}, ("batch", "events"), "valid integer"),
        ({"mode": "batched", "batch": 5}, ("batch",), "valid dictionary"),
        ({"mode": "batched", "on_unknown": "skip"}, (), "by idempotencykey, or change the mode"),
        ({"mode": "batched", "accepts": [409]}, (), "does not say which event"),
        *(
            ({"accepts": [409, each]}, ("accepts",), f"{each} never means accepted")
            for each in (200, 302, 401, 403, 408, 410, 425, 429, 500)
        ),
        ({"handshake": {"origin": "https://hidden"}}, ("handshake", "origin"), "should match pattern"),
        ({"handshake": "hidden"}, ("handshake",), "write true, or {origin: NAME}"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_without_what_may_be_secret(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        WebhookSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


def test_in_a_batch_there_is_room_for_two_unless_something_else_is_said():
    def concurrency(**change: object) -> int:
        return WebhookSettings.model_validate(GOOD | change).concurrency

    assert concurrency() == 16
    assert concurrency(mode="batched") == 200
    assert concurrency(mode="batched", batch={"events": 10}) == 20
    assert concurrency(mode="batched", batch={"events": 1000}) == 1000
    assert concurrency(mode="batched", concurrency=3) == 3


def test_an_attempt_may_take_as_long_as_its_requests():
    def seconds(**change: object) -> float:
        return WebhookSettings.model_validate(GOOD | {"timeout_seconds": 20} | change).attempt_seconds

    assert seconds() == 20
    assert seconds(handshake=True) == 40
    assert seconds(mode="batched") == 21


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("secret", "whsec_hidden!"),
        ("previous_secret", "whsec_hidden!"),
        ("functions_key", "hidden\r\n"),
        ("url", "hidden"),
    ],
)
def test_a_secret_that_cannot_be_right_is_told_without_repeating_it(key, value):
    settings = WebhookSettings.model_validate(GOOD)
    with pytest.raises(ValueError, match="the ") as refused:
        settings.check_secret(key, value)
    assert "hidden" not in str(refused.value)
