"""A receiver's check of signatures, written from the text of the Standard Webhooks specification, not from the sink."""

import base64
import hashlib
import hmac
from collections.abc import Mapping


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance_seconds: float = 300) -> bool:
    """Whether one of the signatures is of this secret, and the request is a new one. Names of headers in any case."""
    given = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdigit() or abs(now - int(timestamp)) > tolerance_seconds:
        return False
    key = base64.b64decode(secret[len("whsec_") :]) if secret.startswith("whsec_") else secret.encode()
    content = b".".join([message_id.encode(), timestamp.encode(), body])
    expected = hmac.new(key, content, hashlib.sha256).digest()
    for signature in given.get("webhook-signature", "").split(" "):
        version, _, encoded = signature.partition(",")
        if version == "v1" and hmac.compare_digest(base64.b64decode(encoded), expected):
            return True
    return False
