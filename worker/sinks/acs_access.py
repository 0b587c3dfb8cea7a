"""How a request to Azure Communication Services proves who sends it: an access key, or the worker's identity.

With a key each request is signed (HMAC-SHA256 over method, path, date, host and a digest of the body); with an identity
it carries a token. Secrets are read at each request, so that rotated ones are picked up. It sends nothing.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate

from yarl import URL

from worker.errors import ConfigError
from worker.settings import Secret
from worker.sinks.addresses import checked_url

_COPY = "copy it whole from the resource's Keys page"


@dataclass(frozen=True, slots=True)
class Authorized:
    """A request's address and the headers that prove it, and what no error may repeat of them."""

    url: URL
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Key:
    endpoint: URL
    key: bytes = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


class Access:
    """The resource of one sink, and what opens it."""

    def __init__(
        self,
        *,
        endpoint: str | None,
        connection_string: Secret | None,
        access_key: Secret | None,
        token: Callable[[], Awaitable[str]] | None,
        allow_private: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """One of the connection string, the access key and the token is given; the endpoint unless the first is."""
        self._endpoint = endpoint
        self._connection_string = connection_string
        self._access_key = access_key
        self._token = token
        self._allow_private = allow_private
        self._clock = clock

    async def authorize(self, method: str, path: str, body: bytes) -> Authorized:
        """The request to this path and query, proved. Raises ConfigError or ValueError: a secret is wrong."""
        if self._token is not None:
            url = _join(checked_endpoint(self._endpoint or "", allow_private=self._allow_private), path)
            token = await self._token()
            return Authorized(url, {"Authorization": f"Bearer {token}"}, (token,))
        key = self._read_key()
        url = _join(key.endpoint, path)
        headers = signed_headers(method, url, body, key=key.key, now=self._clock())
        # Longest first: the connection string holds the key.
        secrets = (*key.secrets, headers["Authorization"], headers["Authorization"].rpartition("Signature=")[2])
        return Authorized(url, headers, secrets)

    def _read_key(self) -> _Key:
        secret = self._connection_string or self._access_key
        assert secret is not None, "the settings want one of them"
        value = secret.read()
        try:
            if self._connection_string is not None:
                url, key = _of_connection_string(value, allow_private=self._allow_private)
                return _Key(url, _decoded(key), (value, key))
            return _Key(
                checked_endpoint(self._endpoint or "", allow_private=self._allow_private), _decoded(value), (value,)
            )
        except ValueError as error:
            raise ConfigError([f"{secret.source}: {error}"]) from None


def check_secret(key: str, value: str, *, allow_private: bool) -> None:
    """Raises ValueError, whose text holds nothing of it, where this can be no connection string or access key."""
    if key == "connection_string":
        _, value = _of_connection_string(value, allow_private=allow_private)
    _decoded(value)


def _of_connection_string(text: str, *, allow_private: bool) -> tuple[URL, str]:
    endpoint, key = _parts(text)
    try:
        return checked_endpoint(endpoint, allow_private=allow_private), key
    except ValueError as error:
        raise ValueError(f"the connection string's {error}") from None


def checked_endpoint(text: str, *, allow_private: bool) -> URL:
    """The resource's address without a path. Raises ValueError, whose text holds no more of it than the host."""
    try:
        url = checked_url(text, allow_private=allow_private)
    except ValueError as error:
        raise ValueError(f"endpoint: {error}; write https://NAME.communication.azure.com") from None
    if url.raw_path not in {"", "/"} or url.raw_query_string or url.raw_fragment:
        raise ValueError(
            f"endpoint: goes on after the host {url.host}; write https://NAME.communication.azure.com and no more"
        )
    return url.origin()


def signed_headers(method: str, url: URL, body: bytes, *, key: bytes, now: float) -> dict[str, str]:
    """The headers that prove knowledge of the key for this one request, about now."""
    date = formatdate(now, usegmt=True)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    # The host exactly as the Host header says it: with the port, unless it is the scheme's own.
    text = f"{method}\n{url.raw_path_qs}\n{date};{url.host_port_subcomponent};{digest}"
    signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    return {
        "x-ms-date": date,
        "x-ms-content-sha256": digest,
        "Authorization": f"HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature={signature}",
    }


def _join(endpoint: URL, path: str) -> URL:
    return URL(f"{endpoint}".rstrip("/") + path, encoded=True)


def _decoded(key: str) -> bytes:
    try:
        decoded = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        raise ValueError(f"the access key is not base64; {_COPY}")
    return decoded


def _parts(connection_string: str) -> tuple[str, str]:
    """Endpoint and access key. Raises ValueError with a sentence that holds no part of it."""
    parts = {}
    for part in connection_string.strip().rstrip(";").split(";"):
        name, _, value = part.partition("=")
        parts[name.strip().lower()] = value.strip()
    if not parts.get("endpoint") or not parts.get("accesskey"):
        raise ValueError(f"the connection string is not of the form endpoint=https://…;accesskey=…; {_COPY}")
    return parts["endpoint"], parts["accesskey"]
