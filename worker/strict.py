"""The base of all configuration models. What the sections are is said where they are used."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of the configuration: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")
