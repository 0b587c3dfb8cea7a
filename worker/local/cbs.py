"""Claims-based security: whether a token lets its bearer at a hub. Pure; what time it is comes as an argument.

Without keys every token passes, as in the official emulator. With keys, only shared access signatures made from one of
them do: their rights (send, listen, manage) are not told apart.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from worker.local.refusals import AUTH_FAILED, Refused

_SAS = "SharedAccessSignature "
SAS_TOKEN_TYPE = "servicebus.windows.net:sastoken"  # noqa: S105 - a type's name, no secret


def sign(key: str, resource: str, expires_at: int) -> str:
    """The signature of a shared access signature; `resource` is as it stands in the token, url-encoded."""
    digest = hmac.new(key.encode(), f"{resource}\n{expires_at}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def make_token(name: str, key: str, resource: str, expires_at: int) -> str:
    """A shared access signature for a resource such as `sb://127.0.0.1/hub`."""
    encoded = quote(resource, safe="")
    signature = quote(sign(key, encoded, expires_at), safe="")
    return f"{_SAS}sr={encoded}&sig={signature}&se={expires_at}&skn={quote(name, safe='')}"


class TokenCheck:
    """The keys of a broker, and what they say to a token."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = dict(keys)

    @property
    def required(self) -> bool:
        """Whether tokens are looked at: whether there are keys."""
        return bool(self._keys)

    def check(self, token: str, audience: str, now: float) -> None:
        """Returns when the token is good for the audience now; raises Refused."""
        if not self._keys:
            return
        fields = _fields(token)
        self._check_signature(fields)
        expires_at = fields["se"]
        if not expires_at.isdigit() or int(expires_at) <= now:
            raise Refused(AUTH_FAILED, "ExpiredToken: The token is expired. Expiration time: '" + expires_at + "'.")
        if not _covers(unquote(fields["sr"]), audience):
            raise Refused(AUTH_FAILED, f"InvalidAudience: The token's resource does not cover '{audience}'.")

    def _check_signature(self, fields: Mapping[str, str]) -> None:
        # Some SDKs url-encode the key name twice, some once; in the names that Azure allows, that can be undone.
        name = unquote_plus(unquote_plus(fields["skn"]))
        key = self._keys.get(name)
        if key is None:
            raise Refused(AUTH_FAILED, "InvalidSignature: The token has an invalid signature.")
        expected = sign(key, fields["sr"], int(fields["se"])) if fields["se"].isdigit() else ""
        if not hmac.compare_digest(unquote(fields["sig"]).encode(), expected.encode()):
            raise Refused(AUTH_FAILED, "InvalidSignature: The token has an invalid signature.")


def _fields(token: str) -> dict[str, str]:
    fields = dict(part.partition("=")[::2] for part in token.removeprefix(_SAS).split("&"))
    if not token.startswith(_SAS) or not {"sr", "sig", "se", "skn"} <= fields.keys():
        raise Refused(AUTH_FAILED, "MalformedToken: This broker takes shared access signatures only, and all of each.")
    return fields


def _covers(resource: str, audience: str) -> bool:
    """Whether a token for `resource` is good for `audience`: the same path, or one below it. Hosts do not count."""
    granted, wanted = _segments(resource), _segments(audience)
    return wanted[: len(granted)] == granted


def _segments(address: str) -> list[str]:
    path = urlsplit(address).path if "://" in address else address
    return [segment.casefold() for segment in path.split("/") if segment]
