"""The base of all configuration models. What the sections are is said where they are used."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the configuration: frozen, and an unknown key is a mistake.

    The sentence below a key is what `worker schema` and the reference page say of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which exactly one is needed. For the schema; a validator checks it, and says so."""
    goes_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Keys that mean nothing without others, and which. For the schema too."""
