"""From worker.yaml and routes.yaml to a Config, or to every mistake in both files at once.

What the keys are is said in `config`, by the sinks and by `filters`; here is what only shows when sections, files and
the environment are seen together. Nothing is connected to and nothing is started.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from worker.config import (
    BlobStoreSettings,
    Config,
    RouteSettings,
    Routing,
    SourceSettings,
    TracingSettings,
    WorkerSettings,
)
from worker.connections import check_storage_connection_string, hub_address
from worker.crosschecks import (
    Numbers,
    forgets_too_early,
    given_twice,
    gives_up_too_late,
    incomplete_expectation,
    intervals_that_clash,
    unknown_sinks,
)
from worker.documents import Document, read_document
from worker.errors import ConfigError
from worker.expect import ExpectRule, compile_rule
from worker.expect_settings import ExpectSettings
from worker.filters import Filter, FilterMistakes, compile_filter
from worker.mistakes import (
    Finding,
    Location,
    Mistake,
    Mistakes,
    did_you_mean,
    dotted,
    finding,
    section_at,
    shown,
    value_at,
    without_echoes,
)
from worker.otel_environment import mistakes_in
from worker.route import Late, Routes, RouteSpec
from worker.settings import NO_ENV_NAME, Secret, SinkSettings, beside, is_env_name, secret_keys
from worker.sinks.installed import UnusableKind, find_kind, kind_names
from worker.unchanged import changed_key

_Model = TypeVar("_Model", bound=BaseModel)


def load(
    file: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    secrets: bool = True,
    sink_secrets: bool = True,
    only_sink: str | None = None,
) -> Config:
    """Reads worker.yaml and the routes file it names. Raises Mistakes (a ConfigError) with all that is wrong.

    Without `secrets`, environment variables and secret files need not be there; without `sink_secrets`, those of sinks;
    with `only_sink`, all but those of this sink.
    """
    reading = _Reading(environ, secrets=secrets, sink_secrets=sink_secrets, only_sink=only_sink)
    document = reading.document(file)
    worker = reading.worker(document) if document else None
    routing = None
    if document:
        numbers = Numbers(document.values)
        late = worker.order.late if worker else Late.DELIVER
        routing = reading.routing(_routes_file(document), late, numbers)
        reading.add(document, *intervals_that_clash(numbers), *forgets_too_early(numbers))
    reading.stop_if_wrong()
    assert worker is not None
    assert routing is not None
    return Config(file, worker, routing, digest_of(file.read_bytes(), routing.file.read_bytes()))


def load_routes(
    file: Path, worker: WorkerSettings, *, environ: Mapping[str, str] = os.environ, secrets: bool = True
) -> Routing:
    """Reads the routes file alone, to go with settings that stand. Raises Mistakes with all that is wrong."""
    reading = _Reading(environ, secrets=secrets)
    routing = reading.routing(file, worker.order.late, Numbers(worker.model_dump()))
    reading.stop_if_wrong()
    assert routing is not None
    return routing


class _RoutesFile(BaseModel, extra="forbid"):
    """The outline of routes.yaml; each sink, route and expectation is looked at on its own."""

    sinks: list[Any]
    routes: list[Any] = Field(min_length=1)
    expect: list[Any] | None = None


class _Reading:
    """One pass over the files, which goes on after a mistake."""

    def __init__(
        self, environ: Mapping[str, str], *, secrets: bool, sink_secrets: bool = True, only_sink: str | None = None
    ) -> None:
        self._environ = environ
        self._secrets = secrets
        self._sink_secrets = sink_secrets
        self._only_sink = only_sink
        self._files: list[Path] = []
        self._found: list[Mistake] = []

    def stop_if_wrong(self) -> None:
        """Raises Mistakes when there are any, in the order of the files and lines."""
        if self._found:
            raise Mistakes(sorted(self._found, key=self._order))

    def _order(self, mistake: Mistake) -> tuple[int, int, int]:
        return self._files.index(mistake.file), mistake.line or 0, mistake.column or 0

    def document(self, file: Path) -> Document | None:
        """The file's values, or None where it cannot be read."""
        self._files.append(file)
        try:
            document = read_document(file)
        except Mistakes as mistakes:
            self._found += mistakes.found
            return None
        self._found += document.mistakes
        if isinstance(document.values, dict):
            return document
        wrong = "is empty" if document.values is None else "is no list of sections (`key: value`)"
        self._found.append(Mistake(file, None, f"{wrong}; write its sections as in the example configuration"))
        return None

    def add(self, document: Document, *findings: Finding) -> None:
        """Notes mistakes at their lines."""
        self._found += [document.mistake(place, f"{dotted(place)}: {message}") for place, message in findings]

    def worker(self, document: Document) -> WorkerSettings | None:
        """The settings of worker.yaml, or None with mistakes noted."""
        hub = value_at(document.values, ("source", "hub"))

        def check_hub(connection_string: str) -> None:
            address = hub_address(connection_string)
            if address.hub and isinstance(hub, str) and address.hub.casefold() != hub.casefold():
                raise ValueError("is for another hub (EntityPath) than source.hub; take that hub's, or the namespace's")

        self._check_secrets(document, ("source",), SourceSettings, _of_connection_string(check_hub))
        if value_at(document.values, ("store", "kind")) == "blob":
            check = _of_connection_string(check_storage_connection_string)
            self._check_secrets(document, ("store",), BlobStoreSettings, check)
        settings = self._validated(WorkerSettings, document, ())
        if settings and settings.tracing.enabled and self._is_for_here:
            self._check_tracing(document, settings.tracing)
        return settings

    @property
    def _is_for_here(self) -> bool:
        """Whether the worker is to run in this environment, and not only to be looked at."""
        return self._secrets and self._sink_secrets and self._only_sink is None

    def _check_tracing(self, document: Document, tracing: TracingSettings) -> None:
        found = list(mistakes_in(self._environ, ratio_given=tracing.sample_ratio is not None))
        if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            found.append("needs OpenTelemetry, which is not installed; pip install 'event-grid-worker[otel]'")
        self.add(document, *(Finding(("tracing", "enabled"), message) for message in found))

    def routing(self, file: Path, late: Late, numbers: Numbers) -> Routing | None:
        """What the routes file says, or None with mistakes noted."""
        document = self.document(file)
        if document is None:
            return None
        self._validated(_RoutesFile, document, ())
        sinks = self._sinks(document, numbers)
        specs = self._specs(document, late)
        expect = self._expectations(document)
        return None if self._found else Routing(file, tuple(sinks), tuple(specs), Routes(specs), tuple(expect))

    def _sinks(self, document: Document, numbers: Numbers) -> list[SinkSettings]:
        sinks = []
        for place, section in document.sections("sinks"):
            model = self._sink_model(document, place, section)
            if model is None:
                continue
            sink = self._validated(model, document, place)
            self._check_secrets(document, place, model, sink.check_secret if sink else _nothing_to_check)
            if sink:
                sinks.append(sink)
            self.add(document, *gives_up_too_late(place, section, numbers))
        self.add(document, *given_twice(document, "sinks"))
        return sinks

    def _sink_model(self, document: Document, place: Location, section: Mapping[str, Any]) -> type[SinkSettings] | None:
        kind = section.get("kind")
        known = kind_names()
        if kind is None:
            self.add(document, Finding(place, f"has no kind; write one of {', '.join(known)}"))
            return None
        try:
            if kind in known:
                return find_kind(kind).settings
            message = f"there is no kind {shown(kind)}; {did_you_mean(str(kind), known)}"
        except UnusableKind as unusable:
            message = str(unusable)
        self.add(document, Finding((*place, "kind"), message))
        return None

    def _specs(self, document: Document, late: Late) -> list[RouteSpec]:
        specs = []
        names = [section["name"] for _, section in document.sections("sinks") if isinstance(section.get("name"), str)]
        for place, section in document.sections("routes"):
            self.add(document, *unknown_sinks(place, section, names))
            compiled = self._filter(document, (*place, "filter"), section.get("filter"))
            if route := self._validated(RouteSettings, document, place):
                specs.append(_spec(route, compiled, late))
        self.add(document, *given_twice(document, "routes"))
        return specs

    def _expectations(self, document: Document) -> list[ExpectRule]:
        rules = []
        for place, section in document.sections("expect"):
            incomplete = list(incomplete_expectation(place, section)) if section else []
            self.add(document, *incomplete)
            filters = {
                key: self._filter(document, (*place, key), section.get(key)) for key in ("after", "then", "events")
            }
            expectation = self._validated(ExpectSettings, document, place)
            if expectation and not incomplete:
                rules.append(compile_rule(expectation, **filters))
        self.add(document, *given_twice(document, "expect"))
        return rules

    def _filter(self, document: Document, place: Location, raw: object) -> Filter | None:
        if not isinstance(raw, dict):
            return None  # absent, or a mistake that the route's model finds
        try:
            return compile_filter(raw)
        except FilterMistakes as found:
            self.add(document, *(Finding((*place, *path), message) for path, message in found.mistakes))
            return None

    def _validated(self, model: type[_Model], document: Document, place: Location) -> _Model | None:
        """The section at a place as its model, or None with its mistakes noted.

        By way of JSON, where strict means what it means in YAML: a list may become a tuple and text a path, but "8080"
        is no number.
        """
        raw = value_at(document.values, place)
        try:
            context = {"folder": document.file.parent}
            return model.model_validate_json(json.dumps(raw), strict=True, context=context)
        except ValidationError as error:
            for detail in without_echoes(error.errors(include_url=False)):
                inside, message = finding(model, raw, detail)
                self.add(document, Finding((*place, *inside), message))
            return None

    def _check_secrets(
        self,
        document: Document,
        place: Location,
        model: type[BaseModel],
        check: Callable[[str, str], None],
    ) -> None:
        """Notes secrets of a section that are not there, and those that cannot be right: `check` is told key and value.

        It raises ValueError, whose text goes out, and repeats nothing of the value.
        """
        section = section_at(document.values, place)
        needed = self._needs_secrets(place, section)
        for key in secret_keys(model):
            for where, secret in self._secrets_of(section, key, document.file.parent):
                if problem := self._problem(secret, partial(check, key), needed=needed):
                    self.add(document, Finding((*place, *where), problem))

    def _needs_secrets(self, place: Location, section: Mapping[str, Any]) -> bool:
        of_sink = place[:1] == ("sinks",)
        if self._only_sink is not None:
            return self._secrets and of_sink and section.get("name") == self._only_sink
        return self._secrets and (self._sink_secrets or not of_sink)

    def _secrets_of(self, section: Mapping[str, Any], key: str, folder: Path) -> Iterator[tuple[Location, Secret]]:
        """Every variable and file that a key names: one, or one for each name of a mapping."""
        for suffix in ("env", "file"):
            given = section.get(f"{key}_{suffix}")
            for name, text in given.items() if isinstance(given, dict) else [(None, given)]:
                where: Location = (f"{key}_{suffix}",) if name is None else (f"{key}_{suffix}", name)
                if not isinstance(text, str):
                    continue  # absent, or a mistake that the section's model finds
                if suffix == "env":
                    yield where, Secret(key, env=text, environ=self._environ)
                else:
                    yield where, Secret(key, file=beside(folder, Path(text)))

    def _problem(self, secret: Secret, check: Callable[[str], None], *, needed: bool) -> str | None:
        if secret.env is not None and not is_env_name(secret.env):
            return NO_ENV_NAME
        if not needed:
            return None
        try:
            check(secret.read())
        except ConfigError as error:
            return str(error).removeprefix(f"{secret.source}: ")
        except ValueError as error:
            return str(error)
        return None


def _spec(route: RouteSettings, compiled: Filter | None, late: Late) -> RouteSpec:
    changed = None if route.changed is None else changed_key(route.changed)
    return RouteSpec(route.name, route.sinks, compiled, route.sources, route.late or late, route.only, changed)


def _of_connection_string(check: Callable[[str], None]) -> Callable[[str, str], None]:
    """A check of a section's secrets, from one of its connection string alone."""

    def check_secret(key: str, value: str) -> None:
        if key == "connection_string":
            try:
                check(value)
            except ValueError as error:
                raise ValueError(f"the connection string {error}") from None

    return check_secret


def _nothing_to_check(_key: str, _value: str) -> None:
    """For a section that is wrong itself."""


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing, which `find_spec` has to import
        return False


def digest_of(worker: bytes, routes: bytes) -> str:
    """`Config.digest` of the contents of both files."""
    return hashlib.sha256(b"\0".join((worker, routes))).hexdigest()[:16]


def _routes_file(document: Document) -> Path:
    """Where routes.yaml is, also when other parts of worker.yaml are wrong."""
    given = document.values.get("routes_file")
    return beside(document.file.parent, Path(given if isinstance(given, str) and given else "routes.yaml"))
