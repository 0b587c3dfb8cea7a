"""The configuration: worker.yaml and routes.yaml with environment and secret files, read into frozen values.

Here are the sections and what each key means; what a sink's keys are is said in that sink's module. `loading` reads the
files and finds the mistakes. A module is given its own section, never the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from worker.connections import checked_account_url, checked_container, checked_host_name
from worker.expect import ExpectRule
from worker.route import Late, Routes, RouteSpec
from worker.settings import FilePath, SinkSettings, one_of
from worker.strict import Settings
from worker.unchanged import changed_key

SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 24 * SECONDS_PER_HOUR
_LEDGER_DAYS = 7.0


_StartText = Annotated[str, Field(pattern=r"^(earliest|latest|[0-9]{4}-?[0-9W].*)$")]
"""How a start is written, as far as a pattern can say it."""


def _start(value: object) -> object:
    if value in ("earliest", "latest"):
        return value
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("is not a start; write earliest, latest or a time such as 2026-01-31T06:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _window(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds such as 5, without quotes, or auto")  # noqa: TRY004 - pydantic's
    if not value >= 0:
        raise ValueError("must be at least 0")
    return value


_ChangedText = Annotated[str, Field(pattern=r"""^(etag|data(\.[^.\[]+|\['([^']|'')*'\]|\["([^"]|"")*"\])*)$""")]
"""What is compared, as far as a pattern can say it."""


def _changed(value: object) -> object:
    if isinstance(value, str):
        changed_key(value)
    return value


def _exactly_one(values: Mapping[str, object], *keys: str) -> None:
    """As one_of, but silent while one of the keys has a mistake of its own: it is then missing from `values`."""
    if all(key in values for key in keys):
        one_of(values, *keys)


OnInvalidOffset = Literal["stop", "earliest", "latest"]


class SourceSettings(Settings):
    """Which hub is read, and how partitions are shared."""

    needs_one_of = (("connection_string_env", "connection_string_file", "namespace"),)

    connection_string_env: str | None = None
    """The Event Hubs namespace's or the hub's connection string, with the right to listen."""
    connection_string_file: FilePath | None = None
    namespace: Annotated[str, AfterValidator(checked_host_name)] | None = Field(default=None, validate_default=True)
    """The host name instead of a connection string: the identity of the process is used (azure-identity)."""
    hub: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$")
    """The event hub in that namespace."""
    consumer_group: str = Field(default="$Default", pattern=r"^(\$[Dd]efault|[A-Za-z0-9][A-Za-z0-9._-]{0,49})$")
    """All workers of one group share the partitions; another group reads everything again."""
    start: Annotated[
        Literal["earliest", "latest"] | datetime, BeforeValidator(_start, json_schema_input_type=_StartText)
    ] = "earliest"
    """Where a partition without a checkpoint begins: earliest, latest or a time; no zone means UTC."""
    balance_interval_seconds: float = Field(default=2, ge=0.5)
    """How often ownership is looked at and renewed: a new worker has its share after a few of these. Not less than half
    a second: attempts stop two of these before a lease ends, and a batch may wait for a second."""
    ownership_expiry_seconds: float = Field(default=20, gt=0)
    """After this silence an owner's partitions may be taken; also the lease in which attempts may start."""
    retention_hours: float = Field(default=24, gt=0, le=90 * 24)
    """The hub's own retention: giving up must end before it."""
    prefetch: int = Field(default=3000, ge=1, le=100_000)
    """Messages asked for ahead, per partition; of a hub with more than 8 partitions 8 times as many in all, at least
    300 each: one process may have to hold them. The SDK pauses 50 ms after each such batch: with 300 one partition
    gives 4,600 events/s at best, with 3,000 three times as many, for about 4 MB of memory per 1,000."""
    stall_seconds: float = Field(default=60, gt=0)
    """When the hub has more and nothing comes for so long, the worker connects anew, and ends if that does not help."""
    on_invalid_offset: OnInvalidOffset = "stop"
    """What becomes of a partition whose position is not the hub's: the hub was created anew, or failed over. stop: it
    stands still until somebody decides; earliest: all that the hub has is read again; latest: only what comes is."""
    idle_timeout_seconds: float = Field(default=60, gt=0)
    """Silence of the connection after which it is dead. Without it a half-open connection is noticed after minutes."""

    @field_validator("namespace")
    @classmethod
    def _one_way_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        given = {**info.data, "namespace": value}
        _exactly_one(given, *cls.needs_one_of[0])
        return value

    @property
    def retention_seconds(self) -> float:
        """The hub's retention."""
        return self.retention_hours * SECONDS_PER_HOUR


class StoreIntervals(Settings):
    """How often progress is written, whatever the store."""

    state_interval_seconds: float = Field(default=1, gt=0)
    """The most that settles between two writes of a partition's state under load: what a plain sink may see twice
    after a crash."""
    checkpoint_interval_seconds: float = Field(default=5, gt=0)
    """How often the checkpoint follows the state; it is also written when a partition is closed."""


class SqliteStoreSettings(StoreIntervals):
    """One file on one machine, for several processes."""

    kind: Literal["sqlite"]
    """Where progress is kept."""
    path: FilePath
    """The file; it and its folder are created when they are missing."""


class BlobStoreSettings(StoreIntervals):
    """A container of a storage account, for production."""

    needs_one_of = (("connection_string_env", "connection_string_file", "account_url"),)

    kind: Literal["blob"]
    """Where progress is kept."""
    connection_string_env: str | None = None
    connection_string_file: FilePath | None = None
    """The storage account's connection string."""
    account_url: Annotated[str, AfterValidator(checked_account_url)] | None = Field(default=None, validate_default=True)
    """Instead of a connection string: the identity of the process is used (azure-identity)."""
    container: Annotated[str, AfterValidator(checked_container)]
    """Created when it is missing."""

    @field_validator("account_url")
    @classmethod
    def _one_way_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        given = {**info.data, "account_url": value}
        _exactly_one(given, *cls.needs_one_of[0])
        return value


StoreSettings = SqliteStoreSettings | BlobStoreSettings


class OrderSettings(Settings):
    """How events of one subject are put back in order."""

    window_seconds: Annotated[Annotated[float, Field(ge=0)] | Literal["auto"], BeforeValidator(_window)] = 5.0
    """How long each event waits for an earlier one of its subject; 0: not at all; auto: as long as the disorder of its
    partition asks for."""
    late_target: float = Field(default=0.001, gt=0, le=0.5)
    """With auto: the share of events that may be late."""
    min_seconds: float = Field(default=1, gt=0)
    """With auto: the window is never shorter."""
    max_seconds: float = Field(default=60, gt=0)
    """With auto: never longer. What comes later than that is late, and does not make the window longer."""
    memory_hours: float = Field(default=24, gt=0)
    """How long a subject's newest key is remembered: it tells what is late, and what was seen before."""
    late: Late = Late.DELIVER
    """What happens to a late event where its route does not say."""


class LimitSettings(Settings):
    """What is bounded, per partition."""

    in_flight: int = Field(default=2000, ge=1)
    """Released events that are not settled; when full, reading waits. Of a hub with more than 8 partitions 8 times as
    many in all, as with `source.prefetch`, and at least 100 each."""
    held: int = Field(default=50_000, ge=1)
    """Events waiting for their turn; when full, the oldest are released early and counted."""
    drain_seconds: float = Field(default=20, ge=0)
    """How long deliveries in flight may take to end when a partition closes or the worker stops."""
    hand_over_seconds: float = Field(default=5, gt=0)
    """Silence of an owner that was asked for a partition, after which the partition is taken."""


class DeadLetterSettings(Settings):
    """When dead letters are too many, and how long they are kept."""

    stop_ratio: float = Field(default=0.5, gt=0, le=1)
    """A partition stops when more than this share of its messages cannot be decoded: a wrong hub or a broken producer
    must not empty the hub into the dead-letter store. 1: never."""
    of_at_least: int = Field(default=100, ge=1)
    """Fewer messages than this say nothing."""
    per_minutes: float = Field(default=5, gt=0)
    """The span in which they are counted."""
    keep_days: float = Field(default=14, gt=0)
    """After this a dead letter is deleted."""


class LedgerSettings(Settings):
    """What is remembered of effects that must not happen twice."""

    keep_days: float | None = Field(default=None, gt=0)
    """After this an entry is deleted. It must be longer than source.retention_hours, in which the hub can give an event
    again; left out: 7 days, or a day more than that where that is longer."""


class HttpSettings(Settings):
    """Where /metrics, /livez, /readyz and the status page are served. Nobody has to log in."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """The address that is listened at; 0.0.0.0 in a container."""
    port: int = Field(default=8080, ge=0, le=65535)
    """0 takes a free port and logs it."""
    status_page: bool = True
    """Serves a page for people on /: partitions, lanes, and the last deliveries and dead letters, with the subjects and
    ids of their events, and no payload. Nothing can be changed there."""
    status_port: int | None = Field(default=None, ge=0, le=65535)
    """Serves that page on a port of its own, where others than those that read the metrics are let in; left out: on
    `port`. 0 takes a free one and logs it."""
    status_host: str | None = Field(default=None, min_length=1)
    """The address at which `status_port` is listened at; left out: `host`. With 127.0.0.1 the page is for those who are
    let into the pod: `kubectl port-forward`."""

    @field_validator("status_host")
    @classmethod
    def _of_a_port(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("status_port", 0) is None:
            raise ValueError("means nothing without status_port: the page is on host and port then")
        return value

    @field_validator("status_port")
    @classmethod
    def _of_its_own(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("status_page") is False:
            raise ValueError("means nothing while status_page is false; remove one of the two")
        if value and value == info.data.get("port"):
            raise ValueError("is http.port already; leave it out, and the page is served there")
        return value


class TracingSettings(Settings):
    """Traces of what is delivered, for OpenTelemetry; where they go say its OTEL_* variables."""

    enabled: bool = False
    """Exports spans by OTLP over HTTP. Needs the extra: `pip install 'event-grid-worker[otel]'`."""
    sample_ratio: float | None = Field(default=None, ge=0, le=1)
    """The share of the traces that begin here which is exported; where an event brings its trace along, what was
    decided there holds. Left out: what OTEL_TRACES_SAMPLER says, or all."""


class WorkerSettings(Settings):
    """worker.yaml: how the worker runs."""

    source: SourceSettings
    store: StoreSettings = Field(discriminator="kind")
    order: OrderSettings = OrderSettings()
    limits: LimitSettings = LimitSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    ledger: LedgerSettings = LedgerSettings()
    http: HttpSettings = HttpSettings()
    tracing: TracingSettings = TracingSettings()
    # Text, because a default is validated as if it stood in the file.
    routes_file: FilePath = Field(default="routes.yaml", validate_default=True)
    """What happens to events. It is read again when it changes."""


class RouteSettings(Settings):
    """One route as it stands in routes.yaml; its filter is compiled by `filters`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    """What metrics, logs and dead letters call it."""
    sources: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, min_length=1)
    """Topics whose events this route is for; left out: all."""
    filter: dict[str, object] | None = None
    """Event Grid's own filter; left out: every event."""
    sinks: tuple[str, ...] = Field(min_length=1)
    """Where its events go: names of sinks."""
    late: Late | None = None
    """What happens to an event that comes after a later one of its subject; left out: what order.late says."""
    only: Literal["latest"] | None = None
    """latest: of the events of a subject that are released together, only the newest that this route sends to a sink is
    delivered, the others are superseded: settled and counted. Left out: each is delivered."""
    changed: Annotated[str, BeforeValidator(_changed, json_schema_input_type=_ChangedText)] | None = None
    """An event with the same value of this as the last one that the sink got of its subject is unchanged: settled and
    counted. etag (`data.eTag`, in any case), or a key in the data as filters have them, such as `data.contentLength`.
    Left out: each is delivered."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What routes.yaml says: the part that can be exchanged while running."""

    file: Path
    sinks: tuple[SinkSettings, ...]
    specs: tuple[RouteSpec, ...]
    """The routes in the order of the file."""
    routes: Routes
    """The same, compiled."""
    expect: tuple[ExpectRule, ...] = ()
    """What must follow on what, in the order of the file."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, without a mistake."""

    file: Path
    worker: WorkerSettings
    routing: Routing
    digest: str
    """Of both files' bytes: another one is a new configuration."""

    @property
    def sinks(self) -> tuple[SinkSettings, ...]:
        """The sinks in the order of the file."""
        return self.routing.sinks

    @property
    def routes(self) -> Routes:
        """The compiled routes."""
        return self.routing.routes

    @property
    def ledger_keep_days(self) -> float:
        """How long an entry of the ledger is kept."""
        retention_days = self.worker.source.retention_seconds / SECONDS_PER_DAY
        return self.worker.ledger.keep_days or max(_LEDGER_DAYS, retention_days + 1)

    def give_up_after_seconds(self, sink: SinkSettings) -> float:
        """How long a sink's temporary failures are tried again: its own limit, or half the hub's retention."""
        return sink.retry.give_up_after_seconds or self.worker.source.retention_seconds / 2
