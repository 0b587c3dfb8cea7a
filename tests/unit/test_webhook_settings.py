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
    ],
)
def test_a_mistake_is_told_at_its_place_and_without_what_may_be_secret(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        WebhookSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)
