"""Event Grid's filter operators: a row each, with what the vendor's documents leave open decided in one place.

A value that is missing is null, and the other way round; no operator sees where a value came from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal


class WrongOperand(Exception):
    """Its text says what the operand must be."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What an operator takes, what it looks at, and what it answers."""

    operand_field: Literal["value", "values"] | None
    example: str
    """What may stand there, for somebody who wrote something else."""
    read: Callable[[object], Any]
    """From `value`, or from one item of `values`, to the form that `hit` compares with; raises WrongOperand."""
    kinds: frozenset[type]
    """What it looks at. A value of another type never hits: it fails a positive operator and passes a negated one."""
    hit: Callable[[Any, Any], bool]
    """Of a value and the operand."""
    negated: bool = False
    if_missing: bool = False
    """The answer where the key is missing or null; Event Grid's answers follow no rule."""

    def test(self, operand: object, *, in_arrays: bool) -> Callable[[Any], bool]:
        """What decides about a value. With `in_arrays` an element that hits is a hit; else an array is another type."""
        kinds, hit, negated, if_missing = self.kinds, self.hit, self.negated, self.if_missing

        def test(value: Any) -> bool:
            if value is None:
                return if_missing
            if in_arrays and isinstance(value, list):
                return any(type(item) in kinds and hit(item, operand) for item in value) != negated
            return (type(value) in kinds and hit(value, operand)) != negated

        return test


def _read_string(raw: object) -> str:
    if not isinstance(raw, str):
        raise WrongOperand("must be a string; put it in quotes")
    return raw.casefold()


def _read_number(raw: object) -> int | float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise WrongOperand("must be a number, without quotes")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise WrongOperand("must be a finite number")
    return raw


def _read_bool(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise WrongOperand("must be true or false, without quotes")
    return raw


def _read_range(raw: object) -> tuple[int | float, int | float]:
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        raise WrongOperand("must be a range of two numbers in brackets of its own: [lowest, highest]")
    low, high = _read_number(raw[0]), _read_number(raw[1])
    if low > high:
        raise WrongOperand(f"is a range that holds nothing: {low} is greater than {high}; write [{high}, {low}]")
    return low, high


def _never(*asked: object) -> bool:
    raise AssertionError(asked)  # there is no operand to read, and no kind of value that could hit


_on_strings = partial(Operator, "values", "[Failed, Canceled]", _read_string, frozenset({str}))
_on_numbers = partial(Operator, "values", "[1, 2.5]", _read_number, frozenset({int, float}))
_on_ranges = partial(Operator, "values", "[[1, 5], [10, 20]]", _read_range, frozenset({int, float}))
_on_one_number = partial(Operator, "value", "5", _read_number, frozenset({int, float}))
_on_nothing = partial(Operator, None, "", _never, frozenset(), _never)


def _is_in(text: str, texts: tuple[str, ...]) -> bool:
    return text.casefold() in texts


def _contains(text: str, parts: tuple[str, ...]) -> bool:
    folded = text.casefold()
    return any(part in folded for part in parts)


def _begins(text: str, prefixes: tuple[str, ...]) -> bool:
    return text.casefold().startswith(prefixes)


def _ends(text: str, suffixes: tuple[str, ...]) -> bool:
    return text.casefold().endswith(suffixes)


def _is_within(number: float, ranges: tuple[tuple[float, float], ...]) -> bool:
    return any(low <= number <= high for low, high in ranges)


OPERATORS: dict[str, Operator] = {
    "StringIn": _on_strings(_is_in),
    "StringNotIn": _on_strings(_is_in, negated=True, if_missing=True),
    "StringContains": _on_strings(_contains),
    "StringNotContains": _on_strings(_contains, negated=True),
    "StringBeginsWith": _on_strings(_begins),
    "StringNotBeginsWith": _on_strings(_begins, negated=True),
    "StringEndsWith": _on_strings(_ends),
    "StringNotEndsWith": _on_strings(_ends, negated=True),
    "NumberIn": _on_numbers(lambda number, numbers: number in numbers),
    "NumberNotIn": _on_numbers(lambda number, numbers: number in numbers, negated=True, if_missing=True),
    "NumberInRange": _on_ranges(_is_within),
    "NumberNotInRange": _on_ranges(_is_within, negated=True, if_missing=True),
    "NumberLessThan": _on_one_number(lambda number, bound: number < bound),
    "NumberLessThanOrEquals": _on_one_number(lambda number, bound: number <= bound),
    "NumberGreaterThan": _on_one_number(lambda number, bound: number > bound),
    "NumberGreaterThanOrEquals": _on_one_number(lambda number, bound: number >= bound),
    "BoolEquals": Operator("value", "true", _read_bool, frozenset({bool}), lambda value, wanted: value is wanted),
    # Nothing ever hits: only whether something is there decides.
    "IsNullOrUndefined": _on_nothing(if_missing=True),
    "IsNotNull": _on_nothing(negated=True),
}
