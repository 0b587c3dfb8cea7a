"""E-mail addresses as settings hold them: what is taken for one, and how a mistake is told.

Only plain addresses that every mail system takes: no quoted local part, no comment, nothing beyond ASCII. It knows
nothing of how mail is sent.
"""

import re

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")


def is_address(text: str) -> bool:
    """Whether the text is one bare address."""
    return _ADDRESS.fullmatch(text) is not None


def checked_address(text: str) -> str:
    """The bare address. Raises ValueError with a sentence where it is none."""
    if not is_address(text):
        raise ValueError(f"{text!r} is no e-mail address; write name@example.org")
    return text


def checked_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The bare addresses. Raises ValueError with a sentence about the first that is none, or stands there twice."""
    seen = set()
    for address in addresses:
        folded = checked_address(address).casefold()
        if folded in seen:
            raise ValueError(f"names {address!r} twice; keep one")
        seen.add(folded)
    return addresses
