import pytest
from pydantic import ValidationError

from worker.sinks.email_settings import EmailSettings

GOOD = {
    "name": "oncall",
    "kind": "email",
    "host": "smtp.example.org",
    "from": "ml@example.org",
    "to": ["a@example.org"],
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"from": "ML Platform <ml@example.org>"},
        {"to": ["a@example.org", "b+c@sub.example.org"]},
        {"security": "tls", "port": 4465},
        {"security": "none", "host": "127.0.0.1"},
        {"security": "none", "host": "localhost"},
        {"security": "none", "host": "relay", "allow_private": True},
        {"host": "10.0.0.1", "allow_private": True},
        {"username": "ml", "password_env": "MAIL_PASSWORD"},
        {"username": "ml", "password_file": "/run/secrets/mail"},
        {"auth": "xoauth2", "username": "ml@example.org"},
        {"auth": "xoauth2", "username": "ml@example.org", "scope": "https://outlook.example/.default"},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    assert EmailSettings.model_validate(GOOD | change).security in {"starttls", "tls", "none"}


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"host": "smtp://ml:Passw0rd@smtp.example.org"}, ("host",), "without smtp://, and the port as port"),
        ({"host": "smtp.example.org:587"}, ("host",), "without smtp://, and the port as port"),
        ({"host": "10.0.0.1"}, (), "allow_private: true permits it"),
        ({"host": "127.1"}, (), "neither a name nor an address"),
        ({"security": "none"}, (), "use security: starttls or tls, or allow_private: true"),
        ({"security": "ssl"}, ("security",), "'starttls', 'tls' or 'none'"),
        ({"from": "ml"}, ("from",), "write name@example.org, or Name <name@example.org>"),
        ({"from": "ml@example.org\r\nBcc: x@example.org"}, ("from",), "is no sender"),
        ({"from": "a@example.org, b@example.org"}, ("from",), "is no sender"),
        ({"to": []}, ("to",), "names nobody"),
        ({"to": ["a@example.org>\r\nRCPT TO:<x@example.org"]}, ("to",), "is no e-mail address"),
        ({"to": ["Ops <a@example.org>"]}, ("to",), "is no e-mail address"),
        ({"username": "ml"}, (), "one of password_env, password_file is needed"),
        ({"password_env": "MAIL_PASSWORD"}, (), "add username"),
        ({"username": "ml", "password_env": "A", "password_file": "b"}, (), "exclude each other"),
        ({"auth": "xoauth2"}, (), "add its address as username"),
        ({"auth": "xoauth2", "username": "ml", "password_env": "A"}, (), "a token instead of a password"),
        ({"auth": "kerberos"}, ("auth",), "'password' or 'xoauth2'"),
        ({"scope": "https://x/.default"}, (), "scope is for auth: xoauth2"),
        ({"auth": "xoauth2", "username": "ml", "scope": "a b"}, ("scope",), "pattern"),
        ({"password": "hidden"}, ("password",), "Extra inputs"),
        ({"sender": "ml@example.org"}, ("sender",), "Extra inputs"),
    ],
)
def test_a_mistake_is_told_at_its_place(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        EmailSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]


def test_only_a_log_in_by_token_needs_the_identity_of_the_process():
    assert not EmailSettings.model_validate(GOOD).needs_identity
    assert EmailSettings.model_validate(GOOD | {"auth": "xoauth2", "username": "ml"}).needs_identity
