"""The parts that configuration models are made of: strictness, paths, secrets.

Finding files, lines and suggestions is `config`'s work; here is only what models share, so that sinks can declare
their own settings without knowing the rest.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from worker.errors import ConfigError


class Settings(BaseModel):
    """A section of the configuration: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _beside_its_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


FilePath = Annotated[Path, AfterValidator(_beside_its_file)]
"""A path in a configuration file: relative to the folder of that file (validation context "folder")."""


class Secret:
    """A value that stands in an environment variable or a file: read when it is used, never printed.

    A file is read at each use, so that a rotated secret is picked up without a restart; one trailing line break is cut.
    """

    __slots__ = ("_environ", "_key", "env", "file")

    def __init__(
        self, key: str, *, env: str | None = None, file: Path | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._key = key
        self.env = env
        self.file = file
        self._environ = environ

    @classmethod
    def of(cls, settings: BaseModel, key: str) -> "Secret | None":
        """The secret behind `<key>_env` or `<key>_file` of a section, or None where neither is set."""
        env: str | None = getattr(settings, f"{key}_env", None)
        file: Path | None = getattr(settings, f"{key}_file", None)
        return cls(key, env=env, file=file) if env or file else None

    def read(self) -> str:
        """The value. Raises ConfigError that names the variable or file, never the value."""
        if self.env is not None:
            value = self._environ.get(self.env, "")
            if not value:
                raise ConfigError([f"{self._key}_env: the environment variable {self.env} is not set"])
            return value
        assert self.file is not None
        try:
            value = self.file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError([f"{self._key}_file: {self.file} cannot be read: {reason}"]) from None
        if not value:
            raise ConfigError([f"{self._key}_file: {self.file} is empty"])
        return value

    def __repr__(self) -> str:
        return f"Secret({self._key!r}, {self.env or self.file})"


class RetrySettings(Settings):
    """How long a sink's temporary failures are tried again."""

    give_up_after_seconds: float | None = Field(default=None, gt=0)
    """From the first attempt; then the event becomes a dead letter. Half of source.retention_hours unless set: giving
    up must come before the hub forgets the event."""


class SinkSettings(Settings):
    """What every sink has; each kind adds its own keys."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    kind: str
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Attempts at one time, over all partitions of this process. One subject never has two."""
    rate: float | None = Field(default=None, gt=0)
    """Attempts per second at most, over all partitions of this process; None: no limit."""
    retry: RetrySettings = RetrySettings()
    paused: bool = False
    """Holds its events: nothing is sent, nothing is given up, and the checkpoint waits."""
    dry_run: bool = False
    """Logs what would be sent, and counts it as delivered."""


def one_of(values: Mapping[str, Any], *keys: str, required: bool = True) -> None:
    """Raises ValueError unless exactly one (or, not required, at most one) of the keys has a value."""
    given = [key for key in keys if values.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: keep one")
    if required and not given:
        raise ValueError(f"one of {', '.join(keys)} is needed")
