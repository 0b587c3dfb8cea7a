"""Hostile inputs, each from its number alone: message bodies, filters and configuration files.

Half of them are valid ones with something wrong in them, since pure noise is refused at the first byte.
"""

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unit.bad_configurations import BAD
from tests.unit.configurations import ROUTES, WORKER
from worker.operators import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = Path(__file__).parents[1] / "samples"
_BODIES = [file.read_bytes() for file in sorted(SAMPLES.rglob("*.json"))]
_TREES = [json.loads(body) for body in _BODIES]

_TEXTS = (
    *("", " ", "\x00", "\ud800", "\u202e", "İ", "ß", "a" * 70_000, "🙂" * 1000, "'", '"]', "..", "data.", "[[['"),
    *(
        "2026-01-01T00:00:00Z",
        "2026-13-45T99:99:99Z",
        "9999-12-31T23:59:59.99999999999999Z",
        "0001-01-01",
        "1e999",
        "NaN",
    ),
    *("0" * 64, "f" * 65, "0x10", "-1", "Completed", "Microsoft.MachineLearningServices.RunStatusChanged", "1.0"),
    *("\r\nBcc: x@example.org", "<script>", "${jndi:x}", "{{7*7}}", "%s%n", "../../etc/passwd", "a\tb", "\ufeff"),
)
_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**40, 1e308, -1e308, 0.1, -0.0, 5e-324)
_NAMES = (
    *(
        "id",
        "type",
        "eventType",
        "source",
        "topic",
        "subject",
        "time",
        "eventTime",
        "data",
        "data_base64",
        "specversion",
    ),
    *(
        "specVersion",
        "dataVersion",
        "datacontenttype",
        "sequencer",
        "runStatus",
        "runId",
        "__proto__",
        "Data",
        "DATA",
        "",
    ),
)
_RAW = (
    *(
        b"",
        b" ",
        b"\xef\xbb\xbf",
        b"\xff\xfe{}",
        b"null",
        b"true",
        b"[]",
        b"[[]]",
        b"{}",
        b'"',
        b"[" * 5000,
        b'{"a":' * 5000,
    ),
    *(b"[" * 1024 + b"]" * 1024, b"NaN", b"[1,", b'{"id":"\\ud800"}', b'{"a":1,"a":2}', b"\x00" * 100, b"1" * 10_000),
)


def body(number: random.Random) -> bytes:
    """A message's body."""
    makers: tuple[Callable[[random.Random], bytes], ...] = (_misshapen, _misshapen, _misshapen, _damaged, _noise)
    return number.choice(makers)(number)


def filter_(number: random.Random) -> dict[str, Any]:
    """The `filter` of a route, its names mostly right and its values not."""
    names = ("includedEventTypes", "subjectBeginsWith", "subjectEndsWith", "isSubjectCaseSensitive", "advancedFilters")
    made: dict[str, Any] = {}
    for name in number.sample(names, number.randrange(len(names) + 1)):
        made[name] = _part(name, number)
    if number.random() < 0.2:
        made["any_of"] = [{"advancedFilters": [_condition(number)]} for _ in range(number.randrange(4))]
    if number.random() < 0.1:
        made[_text(number)] = _value(number)
    return made


def _part(name: str, number: random.Random) -> Any:
    if name == "advancedFilters":
        return [_condition(number) for _ in range(number.randrange(5))]
    if number.random() < 0.1:
        return _value(number)
    if name.startswith("included"):
        return [_text(number)]
    return number.random() < 0.5 if name.startswith("is") else _text(number)


def files(number: random.Random) -> tuple[bytes, bytes]:
    """worker.yaml and routes.yaml with something wrong in one of them."""
    bad = number.choice(BAD)
    worker, routes = WORKER, ROUTES
    if number.random() < 0.5:
        worker = worker.replace(bad.old, bad.new) if bad.file == "worker" else worker
        routes = routes.replace(bad.old, bad.new) if bad.file == "routes" else routes
    both = [worker.encode("utf-8", "replace"), routes.encode("utf-8", "replace")]
    which = number.randrange(2)
    both[which] = _mutated(number, both[which], _YAML)
    return both[0], both[1]


def _damaged(number: random.Random) -> bytes:
    return _mutated(number, number.choice(_BODIES), _RAW)


def _misshapen(number: random.Random) -> bytes:
    """A valid document with values exchanged for others."""
    tree = json.loads(json.dumps(number.choice(_TREES)))
    for _ in range(number.randrange(1, 4)):
        inside = isinstance(tree, dict) and "data" in tree and number.random() < 0.6
        if inside:
            tree["data"] = _exchange(number, tree["data"])
        else:
            tree = _exchange(number, tree)
    if number.random() < 0.2:
        tree = [tree] * number.randrange(4) if number.random() < 0.8 else {"value": tree}
    text = json.dumps(tree, ensure_ascii=number.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _exchange(number: random.Random, tree: Any) -> Any:
    """One value somewhere in the tree becomes another, or leaves, or comes."""
    if isinstance(tree, dict) and tree and number.random() < 0.8:
        name = number.choice(list(tree))
        what = number.random()
        if what < 0.05:
            del tree[name]
        elif what < 0.1:
            tree[number.choice(_NAMES)] = tree.pop(name)
        elif what < 0.4:
            tree[number.choice(_NAMES) or _text(number)] = _value(number)
        else:
            tree[name] = _exchange(number, tree[name])
        return tree
    if isinstance(tree, list) and tree and number.random() < 0.8:
        index = number.randrange(len(tree))
        tree[index] = _exchange(number, tree[index])
        return tree
    return _value(number)


def _noise(number: random.Random) -> bytes:
    raw = number.choice(_RAW)
    return raw if number.random() < 0.3 else _mutated(number, raw + number.randbytes(number.randrange(40)), _RAW)


def _mutated(number: random.Random, content: bytes, inserts: tuple[bytes, ...]) -> bytes:
    """Some bytes changed, cut, repeated or put in."""
    for _ in range(number.randrange(1, 4)):
        at = number.randrange(len(content) + 1)
        what = number.randrange(5)
        if what == 0:
            content = content[:at] + bytes([number.randrange(256)]) + content[at + 1 :]
        elif what == 1:
            content = content[:at]
        elif what == 2:
            content = content[:at] + content[at + number.randrange(20) :]
        elif what == 3:
            content = content[:at] + number.choice(inserts) + content[at:]
        else:
            content = content[: at + number.randrange(200)] + content[at:]
    return content


_YAML = (
    *(b"\t", b"&a [*a]", b"*a", b"!!python/object:os.system x", b"<<: {}", b"? ", b"- " * 500, b"{" * 500, b"[" * 500),
    *(
        b"---\n",
        b"%YAML 1.1\n",
        b"\x00",
        b"\xff",
        b": ",
        b"'",
        b'"',
        b"|\n",
        b"1e999",
        b"0x10",
        b".inf",
        b".nan",
        b"2026-01-01",
    ),
    *(
        b"null",
        b"~",
        b"yes",
        b"\n    ",
        b"*" * 100,
        b"- {name: x, kind: webhook}\n",
        b"auto",
        b"${HOME}",
        b"#",
        b"\xe2\x80\xae",
    ),
)


def _condition(number: random.Random) -> Any:
    if number.random() < 0.02:
        return _value(number)
    if number.random() < 0.8:
        return _good_condition(number)
    operator = number.choice(list(OPERATORS)) if number.random() < 0.9 else _text(number)
    condition: dict[str, Any] = {"operatorType": operator, "key": _key(number)}
    if number.random() < 0.8:
        condition["values"] = [_value(number) for _ in range(number.randrange(6))]
    if number.random() < 0.3:
        condition["value"] = _value(number)
    return condition


def _good_condition(number: random.Random) -> dict[str, Any]:
    name = number.choice(list(OPERATORS))
    field = OPERATORS[name].operand_field
    condition: dict[str, Any] = {
        "operatorType": name,
        "key": ".".join(number.choices(_NAMES[:19], k=number.randrange(1, 4))),
    }
    if field is not None:
        one: Any = number.choice(_NUMBERS) if name.startswith("Number") else number.choice(_TEXTS)
        one = sorted((number.random(), 5)) if "Range" in name else name.startswith("BoolE") or one
        condition[field] = one if field == "value" else [one]
    return condition


def _key(number: random.Random) -> Any:
    if number.random() < 0.1:
        return _value(number)
    parts = [number.choice(_NAMES) for _ in range(number.randrange(1, 6))]
    return ".".join(parts) if number.random() < 0.7 else "data" + "".join(f"['{part}']" for part in parts)


def _value(number: random.Random) -> Any:
    makers: tuple[Callable[[random.Random], Any], ...] = (
        _text,
        _text,
        lambda chance: chance.choice(_NUMBERS),
        lambda chance: chance.choice((None, True, False, [], {}, [[]], [None], {"": None})),
        lambda chance: _nested(chance.choice((1, 10, 249, 250, 251, 600))),
        lambda chance: [_value(chance) for _ in range(chance.randrange(4))],
        lambda chance: {chance.choice(_NAMES): chance.choice(_NUMBERS), "sequencer": _text(chance)},
    )
    return number.choice(makers)(number)


def _text(number: random.Random) -> str:
    text = number.choice(_TEXTS)
    return text if number.random() < 0.7 else text[:50] + chr(number.randrange(0x2FFF)) + number.choice(_TEXTS)[:50]


def _nested(depth: int) -> Any:
    tree: Any = 1
    for level in range(depth):
        tree = [tree] if level % 2 else {"a": tree}
    return tree
