"""The Dockerfile, read as far as tests ask for it: its stages and their instructions, lines that go on joined."""

import functools
import re
from typing import NamedTuple

from tests.deploy.manifests import ROOT


class Instruction(NamedTuple):
    """One instruction of a stage."""

    word: str
    text: str


class Stage(NamedTuple):
    """One `FROM … AS name`."""

    name: str
    base: str
    own: tuple[Instruction, ...]

    @property
    def all(self) -> tuple[Instruction, ...]:
        """With those of the stages it is built from."""
        return (*(stage(self.base).all if self.base in stages() else ()), *self.own)

    def values(self, word: str) -> list[str]:
        """What the instructions of this word say, in their order."""
        return [instruction.text for instruction in self.all if instruction.word == word]

    def value(self, word: str) -> str:
        """The last one, which counts."""
        return self.values(word)[-1]


@functools.cache
def stages() -> dict[str, Stage]:
    """All stages, by name, in their order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(str.strip, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.split()
            found[name] = Stage(name, base, ())
        elif found:
            name, last = next(reversed(found.items()))
            found[name] = last._replace(own=(*last.own, Instruction(word, re.sub(r"\s{2,}", " ", rest))))
    return found


def stage(name: str) -> Stage:
    """The stage of this name."""
    return stages()[name]
