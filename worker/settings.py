"""The parts that configuration models are made of: paths, secrets, and what every sink has.

Finding files, lines and suggestions is `config`'s work; here is only what models share, so that sinks can declare
their own settings without knowing the rest.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationInfo, field_validator, model_validator

from worker.errors import ConfigError, Misconfigured
from worker.quiet import QuietSettings
from worker.strict import Settings


def beside(folder: Path, path: Path) -> Path:
    """A path as it stands in a file of this folder; a ~ that leads nowhere is an ordinary name."""
    with suppress(RuntimeError):
        path = path.expanduser()
    return folder / path


def _beside_its_file(path: Path, info: ValidationInfo) -> Path:
    if path == Path():
        raise ValueError("is empty; write a path")
    return beside((info.context or {}).get("folder", Path()), path)


FilePath = Annotated[Path, AfterValidator(_beside_its_file)]
"""A path in a configuration file: relative to the folder of that file (validation context "folder")."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


NO_ENV_NAME = "is no name of an environment variable; the secret itself must not stand in this file"


def is_env_name(text: str) -> bool:
    """Whether an environment variable can have this name."""
    return _ENV_NAME.fullmatch(text) is not None


_LIKE_A_TOKEN = re.compile(r"(?=.*[0-9])(?=.*[a-z])[\w-]{32,}", re.ASCII)


def _shows(name: str) -> bool:
    """Whether a name may be repeated: a token that was written where the name of its place belongs may not."""
    return _LIKE_A_TOKEN.fullmatch(name) is None


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
    def of(cls, settings: BaseModel, key: str, *, environ: Mapping[str, str] = os.environ) -> "Secret | None":
        """The secret behind `<key>_env` or `<key>_file` of a section, or None where neither is set."""
        env: str | None = getattr(settings, f"{key}_env", None)
        file: Path | None = getattr(settings, f"{key}_file", None)
        return cls(key, env=env, file=file, environ=environ) if env or file else None

    @property
    def source(self) -> str:
        """The configuration key that says where the value is."""
        return f"{self._key}_env" if self.env is not None else f"{self._key}_file"

    def read(self) -> str:
        """The value. Raises ConfigError that names the variable or file, never the value."""
        if self.env is not None:
            return self._from_environment(self.env)
        assert self.file is not None
        return self._from_file(self.file)

    def read_for(self, sink: str) -> str:
        """The value, for an attempt. Raises Misconfigured: by now the lane can wait until it is repaired."""
        try:
            return self.read()
        except ConfigError as error:
            raise Misconfigured(f"sink {sink}: {error}") from None

    def _from_environment(self, name: str) -> str:
        if not is_env_name(name):
            raise ConfigError([f"{self.source}: {NO_ENV_NAME}"])
        value = self._environ.get(name, "")
        if not value:
            which = "the environment variable " + name if _shows(name) else "the environment variable that it names"
            raise ConfigError([f"{self.source}: {which} is not set; set it, or name another"])
        return value

    def _from_file(self, file: Path) -> str:
        # A connection string or a URL that was written where a path belongs must not come out again.
        shown = str(file) if re.fullmatch(r"[\w./~ -]+", str(file)) and _shows(file.name) else "the file"
        try:
            value = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise ConfigError([f"{self.source}: {shown} is not UTF-8 text; write the secret again"]) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is no path"
            raise ConfigError([f"{self.source}: {shown} cannot be read: {reason}"]) from None
        if not value:
            raise ConfigError([f"{self.source}: {shown} is empty; write the secret into it"])
        return value

    def __repr__(self) -> str:
        return f"Secret({self.source})"


def secret_keys(settings: type[BaseModel]) -> list[str]:
    """The secrets of a section: every key that can be given as `<key>_env` or as `<key>_file`."""
    fields = settings.model_fields
    return [
        name.removesuffix("_env")
        for name in fields
        if name.endswith("_env") and f"{name.removesuffix('_env')}_file" in fields
    ]


class RetrySettings(Settings):
    """How long a sink's temporary failures are tried again."""

    give_up_after_seconds: float | None = Field(default=None, gt=0)
    """From the first attempt; then the event becomes a dead letter. Half of source.retention_hours unless set: giving
    up must come before the hub forgets the event."""
    max_attempts: int | None = Field(default=None, ge=1)
    """How often the destination is asked at most, over restarts too; left out: only the time counts. While it refuses
    the worker itself (401, 403, 404 for several subjects), only the time counts as well."""


OnUnknown = Literal["resend", "skip", "verify"]
"""What happens to a delivery when nobody knows whether an attempt took effect: act again; do not, and keep it as a dead
letter with reason unknown_outcome; ask the destination."""

_ATTEMPT_SECONDS = 60.0


class SinkSettings(Settings):
    """What every sink has; each kind adds its own keys."""

    ledger: ClassVar[Literal["never", "optional", "always"]] = "never"
    """Whether the kind writes what it does into the ledger: always where a repeated effect costs something and the
    destination cannot tell a repetition; optional where some can; never where a repetition does no harm."""
    verifies: ClassVar[bool] = False
    """Whether the kind's sink has `verify`: it can ask the destination whether a delivery arrived."""
    unknown_by_default: ClassVar[OnUnknown] = "resend"
    """What `on_unknown` is where it is left out."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What routes, metrics, logs and dead letters call it."""
    kind: str
    """Which of the kinds it is."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Attempts at one time, over all partitions of this process. One subject never has two."""
    rate: float | None = Field(default=None, gt=0)
    """Attempts per second at most, over all partitions of this process; left out: no limit."""
    retry: RetrySettings = RetrySettings()
    overflow: Literal["block", "dead_letter"] = "block"
    """What happens when a partition has limits.in_flight unsettled events: reading waits, or this sink's waiting
    deliveries become dead letters so that the other sinks go on."""
    paused: bool = False
    """Holds its events: nothing is sent, nothing is given up, and the checkpoint waits."""
    dry_run: bool = False
    """Logs what would be sent, and counts it as delivered."""
    quiet: QuietSettings | None = None
    """Tells of several events together, at most so often, and not at every time; left out: of each, as it comes."""
    on_unknown: OnUnknown | None = None
    """What happens when an attempt may have taken effect, and may not; kinds with a ledger only. Left out: as the
    kind's page says."""

    @field_validator("on_unknown")
    @classmethod
    def _something_to_decide(cls, value: OnUnknown | None) -> OnUnknown | None:
        if value is not None and cls.ledger == "never":
            raise ValueError("means nothing to a sink of this kind, which does without a ledger; remove it")
        if value == "verify" and not cls.verifies:
            raise ValueError("cannot be verify: this kind cannot ask its destination what came; write resend or skip")
        return value

    @model_validator(mode="after")
    def _remembers_who_went_alone(self) -> Self:
        if self.quiet and self.quiet.tells_some_alone and self.ledger == "optional" and self.on_unknown is None:
            raise ValueError(
                "quiet without group_by needs the ledger, to know after a crash which events went alone; "
                "add on_unknown: resend, or group_by"
            )
        return self

    def check_secret(self, key: str, value: str) -> None:
        """Looks at a secret that is there: `key` without _env and _file. Raises ValueError that repeats none of it."""

    @property
    def uses_ledger(self) -> bool:
        """Whether its deliveries go through the ledger."""
        return self.ledger == "always" or (self.ledger == "optional" and self.on_unknown is not None)

    @property
    def when_unknown(self) -> OnUnknown:
        """What happens when an attempt may have taken effect, and may not."""
        return self.on_unknown or self.unknown_by_default

    @property
    def needs_identity(self) -> bool:
        """Whether it logs in with access tokens of the process's identity."""
        return False

    @property
    def read_once(self) -> tuple[Path, ...]:
        """Files that its sink reads when it is built: when one of them changes, the sink is built anew.

        Secrets are not among them, because they are read when they are used.
        """
        return ()

    @property
    def settled_after_seconds(self) -> float:
        """How long after an attempt the destination may not know yet, when `verify` asks it, what it has done.

        What a kind says in `settles_seconds`.
        """
        return float(getattr(self, "settles_seconds", 0.0))

    @property
    def natural_sample(self) -> str:
        """What `worker send-test` sends it when it is not told what: a word of `samples.Sample`."""
        return "failed-run"

    @property
    def sample_source(self) -> str | None:
        """The source of the samples that `worker send-test` sends it; None: one that says what it is."""
        return None

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt may take: what a kind says in `timeout_seconds`."""
        return float(getattr(self, "timeout_seconds", _ATTEMPT_SECONDS))


def one_of(values: Mapping[str, Any], *keys: str, required: bool = True) -> None:
    """Raises ValueError unless exactly one (or, not required, at most one) of the keys has a value."""
    given = [key for key in keys if values.get(key) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
    if required and not given:
        raise ValueError(f"one of {', '.join(keys)} is needed; add it")
