"""settings.py: what models share: strictness, paths, secrets."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.errors import ConfigError, Misconfigured
from worker.settings import FilePath, Secret, SinkSettings, one_of, secret_keys
from worker.strict import Settings


class Section(Settings):
    path: FilePath = Path("default")
    key_env: str | None = None
    key_file: FilePath | None = None
    other_env: str | None = None


def test_a_section_is_frozen_and_knows_its_keys():
    section = Section()
    with pytest.raises(ValidationError):
        section.path = Path("elsewhere")  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValidationError):
        Section.model_validate({"pathh": "x"})


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [
        ("x.db", "folder/x.db"),
        ("../x.db", "folder/../x.db"),
        ("/abs/x.db", "/abs/x.db"),
        ("~/x.db", "/srv/someone/x.db"),
        ("~nobody-has-this-name/x", "folder/~nobody-has-this-name/x"),
    ],
)
def test_a_path_is_relative_to_the_folder_of_its_file(monkeypatch, given_path, expected):
    monkeypatch.setenv("HOME", "/srv/someone")
    section = Section.model_validate({"path": given_path}, context={"folder": Path("folder")})
    assert section.path == Path(expected)


def test_an_empty_path_is_a_mistake():
    with pytest.raises(ValidationError, match="is empty; write a path"):
        Section.model_validate({"path": ""})


def test_a_secret_is_read_from_the_environment_when_it_is_used():
    environ: dict[str, str] = {}
    secret = Secret.of(Section(key_env="KEY"), "key", environ=environ)
    assert secret is not None
    with pytest.raises(ConfigError, match="key_env: the environment variable KEY is not set"):
        secret.read()
    environ["KEY"] = "first"
    assert secret.read() == "first"
    environ["KEY"] = "second"
    assert secret.read() == "second"


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"s3cret", "s3cret"), (b"s3cret\n", "s3cret"), (b"s3cret\r\n", "s3cret"), (b" s3\n\n", " s3\n")],
)
def test_a_secret_file_loses_one_line_break_at_its_end(tmp_path, content, value):
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert Secret("key", file=file).read() == value


def test_a_secret_file_is_read_again_at_each_use(tmp_path):
    secret = Secret("key", file=tmp_path / "secret")
    for value in ("first", "second"):
        (tmp_path / "secret").write_text(value)
        assert secret.read() == value


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: No such file or directory"), (b"", "is empty"), (b"\xff\xfe", "is not UTF-8 text")],
)
def test_a_secret_file_that_cannot_be_used_is_named_with_the_reason(tmp_path, content, reason):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Secret("key", file=file).read()
    assert str(caught.value).startswith(f"key_file: {file} {reason}")


@pytest.mark.parametrize("token", [f"ghp_{'a1B2' * 9}", "a2b3" * 13])
def test_a_token_that_stands_where_its_place_belongs_is_not_repeated(tmp_path, token):
    for secret in (Secret("token", env=token, environ={}), Secret("token", file=tmp_path / token)):
        with pytest.raises(ConfigError) as caught:
            secret.read()
        assert token not in str(caught.value)


def test_a_section_without_the_secret_has_none():
    assert Secret.of(Section(), "key") is None


def test_the_secrets_of_a_section_are_the_keys_with_both_forms():
    assert secret_keys(Section) == ["key"]
    assert secret_keys(SinkSettings) == []


SECRETS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=12, max_size=40)


@settings(deadline=None)  # the machine is shared
@given(SECRETS)
def test_no_error_and_no_repr_holds_a_secret(secret):
    held = Secret("key", env="NAME", environ={"NAME": secret})
    assert held.read() == secret
    assert secret not in repr(held)


@settings(deadline=None)  # the machine is shared
@given(st.text(alphabet="abcdefgh0123456789", min_size=8, max_size=30))
def test_a_secret_that_was_pasted_in_place_of_its_name_is_not_repeated(marker):
    pasted = f"Endpoint=sb://x;SharedAccessKey={marker}="
    for secret in (Secret("key", env=pasted, environ={}), Secret("key", file=Path(pasted))):
        with pytest.raises(ConfigError) as caught:
            secret.read()
        assert marker not in str(caught.value)
        assert marker not in repr(secret)


@pytest.mark.parametrize(
    ("values", "required", "sentence"),
    [
        ({"a": 1, "b": 2}, True, "a and b exclude each other; keep one"),
        ({"a": 1, "b": 2}, False, "a and b exclude each other; keep one"),
        ({"a": None}, True, "one of a, b is needed; add it"),
    ],
)
def test_alternatives_that_are_not_exactly_one_are_a_mistake(values, required, sentence):
    with pytest.raises(ValueError, match=sentence):
        one_of(values, "a", "b", required=required)


def test_exactly_one_alternative_is_fine_and_none_where_none_is_needed():
    one_of({"a": 1, "b": None}, "a", "b")
    one_of({}, "a", "b", required=False)


def test_a_secret_that_an_attempt_cannot_read_is_for_the_lane_to_wait_for():
    secret = Secret("key", env="KEY", environ={"KEY": "hunter2"})
    assert secret.read_for("out") == "hunter2"
    with pytest.raises(Misconfigured, match="sink out: key_env: the environment variable KEY is not set"):
        Secret("key", env="KEY", environ={}).read_for("out")
