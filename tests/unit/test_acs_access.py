"""What proves a request, and what is said about secrets that cannot be used."""

import base64
from pathlib import Path

import pytest
from yarl import URL

from worker.errors import ConfigError
from worker.settings import Secret
from worker.sinks.acs_access import Access, signed_headers

KEY = base64.b64encode(b"hidden-key-4711").decode()
NOW = 1_700_000_000.75


async def authorize(
    *, connection_string: str | None = None, access_key: str | None = None, endpoint: str | None = None
):
    environ = {"ACS": connection_string or access_key or ""}
    access = Access(
        endpoint=endpoint,
        connection_string=Secret("connection_string", env="ACS", environ=environ) if connection_string else None,
        access_key=Secret("access_key", env="ACS", environ=environ) if access_key else None,
        token=None,
        allow_private=False,
        clock=lambda: NOW,
    )
    return await access.authorize("POST", "/emails:send?api-version=2025-09-01", b"{}")


def test_a_signature_is_what_it_always_was():
    """Computed once, apart from this code, from the documented text: method, path with query, date;host;digest."""
    url = URL("https://ml.communication.azure.com/emails:send?api-version=2025-09-01", encoded=True)
    headers = signed_headers("POST", url, b"{}", key=b"hidden-key-4711", now=NOW)

    assert headers["x-ms-date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert headers["x-ms-content-sha256"] == "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
    assert headers["Authorization"] == (
        "HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature="
        "pplgNsPoJGc6lXMyeqDxAkngi3AZcDYPzs59MkK/f+g="
    )


@pytest.mark.parametrize(
    "text",
    [
        f"endpoint=https://ml.communication.azure.com/;accesskey={KEY}",
        f"Endpoint=https://ml.communication.azure.com;AccessKey={KEY};",
        f"accesskey={KEY};endpoint=https://ml.communication.azure.com/",
    ],
)
async def test_a_connection_string_is_read_as_the_portal_and_other_tools_write_it(text):
    by_string = await authorize(connection_string=text)
    by_key = await authorize(access_key=KEY, endpoint="https://ml.communication.azure.com")

    assert str(by_string.url) == "https://ml.communication.azure.com/emails:send?api-version=2025-09-01"
    assert (by_string.url, by_string.headers) == (by_key.url, by_key.headers)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hidden", "is not of the form endpoint=https://…;accesskey=…; copy it whole from the resource's Keys page"),
        ("endpoint=https://ml.communication.azure.com/", "is not of the form"),
        (f"endpoint=http://ml.communication.azure.com/;accesskey={KEY}", "over http://, without encryption"),
        (f"endpoint=https://ml.communication.azure.com/hidden;accesskey={KEY}", "goes on after the host"),
        ("endpoint=https://ml.communication.azure.com/;accesskey=hidden", "is not base64; copy it whole"),
    ],
)
async def test_a_connection_string_that_cannot_be_used_is_told_without_a_part_of_it(text, reason):
    with pytest.raises((ConfigError, ValueError)) as refused:
        await authorize(connection_string=text)
    assert reason in str(refused.value)
    assert "hidden" not in str(refused.value)
    assert KEY not in str(refused.value)


async def test_an_access_key_that_is_not_base64_is_told_with_where_it_comes_from(tmp_path: Path):
    with pytest.raises(ConfigError, match="access_key_env: the access key is not base64; copy it whole"):
        await authorize(access_key="hidden!", endpoint="https://ml.communication.azure.com")


async def test_what_proves_a_request_shows_nowhere():
    authorized = await authorize(access_key=KEY, endpoint="https://ml.communication.azure.com")
    signature = authorized.headers["Authorization"].rpartition("=")[0].rpartition("Signature=")[2]

    assert signature not in repr(authorized)
    assert {KEY, authorized.headers["Authorization"]} <= set(authorized.secrets)
    assert KEY not in repr(authorized)
