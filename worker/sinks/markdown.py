"""Text of an event inside the markdown that an Adaptive Card understands: shown as it is, never taken for markup.

Pure. Teams shows cards with several programs: on the desktop what CommonMark says about backslashes holds; on phones a
smaller reader shows the backslash itself wherever the character behind it means nothing to it. So only what would be
taken for markup is escaped, and an identifier such as run_12 (exp) stays clean. Parentheses are left alone: they mean
something behind a bracket only, and brackets are escaped. For one line at a time; lines are not looked for.
"""

import re
import unicodedata

_PUNCTUATION = r"!-/:-@\[-`{-~"
_SPECIAL = re.compile(
    rf"\\(?=[{_PUNCTUATION}]|$)"  # would escape what follows; at the end that may be ours
    r"|[\[\]*~`]"  # links, emphasis, code
    r"|_+(?![^\W_])|(?<![^\W_])_+"  # emphasis, except inside a word
    r"|<"  # HTML, mentions, links
    r"|&(?=#?\w+;)"  # would be read as a character reference
    r"|(?<=\{)\{"  # {{DATE(…)}} would become a date of the reader's
)
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
# A list, a heading, a rule, a quotation: only at the beginning of a line, and most with a space behind it or nothing.
_BEGINNING = re.compile(r"\d{1,9}(?=[.)](\s|$))|(?=([-+#])\2*(\s|$)|>)")

_ISOLATE, _END = "\u2068", "\u2069"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})

_IN_A_LINK = re.compile(r"[()<>\[\]\\\"'`^{|}*~;]")
_URL = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(:\d{1,5})?([/?#][!-~]*)?")
_URL_CHARACTERS = 2000
"""What browsers and proxies take for sure."""


def escaped(text: str) -> str:
    """The text as markdown that shows it as it is; what runs from right to left does so for itself only."""
    safe = _SPECIAL.sub(_escape, text)
    if beginning := _BEGINNING.match(safe):
        safe = f"{beginning[0]}\\{safe[beginning.end() :]}"
    return f"{_ISOLATE}{safe}{_END}" if _runs_from_the_right(text) else safe


def usable(url: str) -> bool:
    """Whether it can be linked to: https, without a user, complete, and not too long for those who pass it on."""
    return len(url) <= _URL_CHARACTERS and _URL.fullmatch(url) is not None


def link(text: str, url: str) -> str:
    """A link in markdown; the text alone where the URL is not usable."""
    if not usable(url):
        return escaped(text)
    return f"[{escaped(text)}]({_IN_A_LINK.sub(lambda found: f'%{ord(found[0]):02X}', url)})"


def _escape(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0]) or "".join(f"\\{character}" for character in found[0])


def _runs_from_the_right(text: str) -> bool:
    return not text.isascii() and any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text)
