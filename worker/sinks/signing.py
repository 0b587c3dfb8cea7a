"""Signatures of requests, as Standard Webhooks has them: HMAC-SHA256 over the id, the time and the body. Pure.

While a secret is being replaced, requests carry one signature with each: the receiver takes either.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

_PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key in a secret: what is written in base64 behind whsec_, or else the text's own bytes. Raises ValueError."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("the signing secret begins with whsec_ but goes on with something that is not base64")
    return key


def signed(keys: Sequence[bytes], *, message_id: str, body: bytes, at: float) -> dict[str, str]:
    """The headers of a request that was begun `at` this Unix time; none without keys."""
    if not keys:
        return {}
    timestamp = str(int(at))
    content = f"{message_id}.{timestamp}.".encode() + body
    digests = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys]
    return {
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{digest}" for digest in digests),
    }
