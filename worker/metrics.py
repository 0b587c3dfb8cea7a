"""Every metric of the worker, with its labels and a sentence. Never a subject or an event id as a label.

One instance a process, passed to who counts; nothing here decides anything.
"""

import platform
from importlib.metadata import version
from typing import Any, Self, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from worker.config import WorkerSettings

_EVENT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""From what nobody notices to the retention of a hub, seconds."""
_DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _Quick(MetricWrapperBase):
    """Finds a child that is there by one look into the client's own table: seven are asked for with each event.

    The client turns every label into text and takes a lock first, which was a twelfth of an event's processor time.
    """

    def labels(self, *values: Any, **named: Any) -> Self:
        """The child with these labels."""
        child: Any = None if named else self._metrics.get(values)
        return super().labels(*values, **named) if child is None else cast("Self", child)


class _Counter(_Quick, Counter):
    pass


class _Gauge(_Quick, Gauge):
    pass


class _Histogram(_Quick, Histogram):
    pass


class Metrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        # Of the whole process: a second series for each counter, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._input()
        self._order()
        self._output()
        self._ownership()
        self._configuration()
        self.build_info = self._gauge("build_info", "Always 1; the labels say what is running.", "version", "python")
        self.build_info.labels(version("event-grid-worker"), platform.python_version()).set(1)

    def _input(self) -> None:
        self.received = self._counter(
            "received_messages", "Messages taken from the hub, repeats excluded.", "partition"
        )
        self.missing = self._counter(
            "missing_messages",
            "Messages that an earlier owner left unsettled and the hub did not give again: passed by its retention.",
            "partition",
        )
        self.repeated = self._counter(
            "repeated_messages", "Messages dropped because the SDK handed them over before (reconnect).", "partition"
        )
        self.decoded = self._counter("decoded_events", "Events decoded, by envelope.", "partition", "schema")
        self.bad = self._counter("bad_events", "Events or messages that could not be decoded.", "partition", "reason")
        self.stopped = self._gauge(
            "partition_stopped",
            "1 while nothing is read: too many messages cannot be decoded, or the hub does not know the position.",
            "partition",
        )
        self.weak_order = self._counter(
            "weak_order_events", "Events whose sequencer or time was there but unusable.", "partition", "key"
        )
        self.source_errors = self._counter(
            "source_errors",
            "Errors the Event Hubs client reported; partition is empty for the load balancer.",
            "partition",
        )
        self.source_errors.labels("")
        self.restarts = self._counter(
            "client_restarts", "Times the Event Hubs client was replaced, by why: silent, stalled, other_hub.", "reason"
        )
        for reason in ("silent", "stalled", "other_hub"):
            self.restarts.labels(reason)  # never is 0, and not unknown
        self.lag_events = self._gauge(
            "lag_events", "Messages that the hub has and that are not settled, read or not.", "partition"
        )
        self.lag_seconds = self._gauge(
            "lag_seconds",
            "Age of the oldest message that is not settled, at least: since the hub had it; 0 when there is none.",
            "partition",
        )
        self.retention = self._gauge("source_retention_seconds", "How long the hub keeps a message, as configured.")
        self.hub_partitions = self._gauge("hub_partitions", "Partitions of the hub; 0 until it was reached.")
        self.hub_requests = self._counter(
            "hub_requests",
            "Questions asked of the hub, by how they ended: ok, failed, no_answer. Receiving is none.",
            "operation",
            "outcome",
        )

    def _order(self) -> None:
        self.held = self._gauge("held_events", "Events held by the order stage.", "partition")
        self.order_window = self._gauge(
            "order_window_seconds", "How long events wait for earlier ones of their subject.", "partition"
        )
        self.order_late_share = self._gauge(
            "order_late_share",
            "With window_seconds: auto, the late among the events it learns from, about the last 10 / late_target.",
            "partition",
        )
        self.order_late_target = self._gauge(
            "order_late_target", "The share of events that may be late, as configured; 1 where no order is asked for."
        )
        self.released = self._counter("released_events", "Events whose turn came.", "partition")
        self.released_early = self._counter(
            "released_early_events",
            "Events released before their window ended, because limits.held was reached.",
            "partition",
        )
        self.kind_changes = self._counter(
            "order_kind_changes", "Events ordered by another kind of key than their subject's last.", "partition"
        )
        self.spread_subjects = self._gauge(
            "subjects_on_several_partitions",
            "Subjects, of a sample, with events on several partitions within the last hour: these have no order.",
        )
        self.late = self._counter("late_events", "Events that came after a later one of their subject.", "partition")
        self.duplicates = self._counter(
            "duplicate_events", "Re-sent events; same: dropped, other_data: delivered.", "partition", "kind"
        )

    def _output(self) -> None:
        self.settled = self._counter("settled_events", "Events done with, by how.", "partition", "outcome")
        self.in_flight = self._gauge("in_flight_events", "Events released and not settled.", "partition")
        self.deliveries = self._counter("deliveries", "Attempts to deliver, by how they ended.", "sink", "outcome")
        self.delivery_seconds = _Histogram(
            "worker_delivery_seconds",
            "Time of one attempt.",
            ["sink"],
            buckets=_DELIVERY_BUCKETS,
            registry=self.registry,
        )
        self.event_seconds = _Histogram(
            "worker_event_to_destination_seconds",
            "Time from when the hub had an event until its destination accepted it; not of digests and replays.",
            ["sink"],
            buckets=_EVENT_BUCKETS,
            registry=self.registry,
        )
        self.lane_queued = self._gauge("lane_queued_events", "Deliveries that wait or are being tried.", "sink")
        self.lane_paused = self._gauge(
            "lane_paused",
            "1 while a lane is paused: by configuration, or because the destination refuses the worker.",
            "sink",
        )
        self.lane_down = self._gauge(
            "lane_down", "1 while a lane's breaker is open: the destination is down and is only probed.", "sink"
        )
        self.lane_gone = self._gauge(
            "lane_gone",
            "1 when the destination has said that it is gone for good: nothing is sent, all becomes dead letters.",
            "sink",
        )
        self.lane_oldest_seconds = self._gauge(
            "lane_oldest_seconds",
            "Age of the oldest delivery in a lane, since its first attempt or since it came; 0 when there is none.",
            "sink",
        )
        self.lane_oldest_event = self._gauge(
            "lane_oldest_event_timestamp_seconds",
            "Unix time when the hub had the oldest event in a lane; 0 when there is none. Not of digests and replays.",
            "sink",
        )
        self.ledger_decisions = self._counter(
            "ledger_decisions",
            "Deliveries that the ledger knew: already_accepted, or of unknown outcome and resent, skipped, verified, "
            "verified_missing.",
            "sink",
            "decision",
        )
        self.ledger_expired = self._counter(
            "ledger_expired_entries", "Entries of the ledger deleted because they became older than ledger.keep_days."
        )
        self.dead_letters = self._counter("dead_letters", "Dead letters written.", "reason", "sink")
        self.dead_letters_expired = self._counter(
            "dead_letters_expired", "Dead letters deleted because they became older than dead_letters.keep_days."
        )
        self.digests = self._counter("digests", "Digests made, by why: group, limit, mute, order.", "sink", "because")
        self.digest_held = self._gauge(
            "digest_held_events", "Events that are settled and wait to be told in a digest.", "partition", "sink"
        )
        self.superseded = self._counter(
            "superseded_events",
            "Events not delivered, because a newer one of their subject was released with them (only: latest).",
            "route",
            "sink",
        )
        self.unchanged = self._counter(
            "unchanged_events",
            "Events not delivered, because their value is the last that the sink got of their subject (changed).",
            "route",
            "sink",
        )
        self.muted = self._counter(
            "muted_events",
            "Events that a sink was not told: a mute window says drop or dead_letter, or is full.",
            "sink",
        )
        self.expectations = self._counter(
            "expectations",
            "First events of expectations, by what became of them: met, missed, not_watched_late, not_watched_full, "
            "not_watched_no_key, dropped; no_route: missed, and no route takes the alarm.",
            "rule",
            "outcome",
        )
        self.expectations_pending = self._gauge(
            "expectations_pending", "First events on which another must still follow.", "partition", "rule"
        )
        self.expectations_untold = self._gauge(
            "expectations_untold", "Missed expectations of which not every sink has been told.", "partition"
        )
        self.replays = self._counter("replays", "Replays of dead letters that ended, by how.", "outcome")

    def _ownership(self) -> None:
        self.expectations_rows = self._gauge(
            "expectations_rows", "Rows in the shared table of a rule across subjects; the same in each process.", "rule"
        )
        self.expectations_waiting = self._gauge(
            "expectations_waiting_seconds",
            "For how long something in the shared table has been due that a partition is not through yet; 0: nothing. "
            "The same in each process.",
            "waits_for",
        )
        self.owned = self._gauge("partitions_owned", "Partitions this process holds a generation of.")
        self.generation = self._gauge("partition_generation", "Generation held; 0 when not held.", "partition")
        self.ownership_changes = self._counter(
            "ownership_changes", "Partitions taken and given up.", "partition", "change"
        )
        self.partition_takes = self._counter(
            "partition_takes",
            "Partitions taken, by how: free, handed_over (its owner was asked: balancing), silent (it did not answer).",
            "partition",
            "how",
        )
        self.store_requests = self._counter(
            "store_requests",
            "Requests to the store, by how they ended: ok, conflict, missing, refused, throttled, failed, no_answer; "
            "of SQLite: transactions.",
            "operation",
            "outcome",
        )
        self.state_bytes = self._gauge("state_bytes", "Size of a partition's state as last written.", "partition")
        self.state_writes = self._counter("state_writes", "Writes of a partition's state.", "partition", "outcome")
        self.memory_written = self._counter(
            "memory_written_bytes",
            "Bytes of a partition's memory written, by kind: part, whole, digests, expectations.",
            "partition",
            "kind",
        )
        self.memory_parts_lost = self._counter(
            "memory_parts_lost",
            "Parts of a partition's memory that were missing or damaged: copies and late events may go unrecognised.",
            "partition",
        )
        self.digest_parts_lost = self._counter(
            "digest_parts_lost",
            "Parts of what waits for digests that were missing or damaged: their events are told by nobody.",
            "partition",
        )
        self.expectation_parts_lost = self._counter(
            "expectation_parts_lost",
            "Parts of what is pending of expectations that were missing or damaged: nobody will be told of it.",
            "partition",
        )
        self.checkpoint_sequence = self._gauge("checkpoint_sequence_number", "Last checkpoint written.", "partition")
        self.checkpoint_age = self._gauge(
            "checkpoint_age_seconds",
            "For how long the oldest of what is settled has not been in the checkpoint; 0 when all is.",
            "partition",
        )

    def _configuration(self) -> None:
        self.reloads = self._counter(
            "config_reloads", "Times changed rules were read, by outcome: applied, refused.", "outcome"
        )
        self.reload_successful = self._gauge(
            "config_last_reload_successful",
            "1 while routes.yaml as it stands is in force; 0 when it was refused and the rules before it stay.",
        )
        self.reloaded_at = self._gauge(
            "config_last_reload_timestamp_seconds", "Unix time since which the rules in force are."
        )
        self.config_info = self._gauge("config_info", "Always 1; the label says which rules are in force.", "digest")

    def describe(self, settings: WorkerSettings) -> None:
        """What alerts compare with, as configured."""
        self.retention.set(settings.source.retention_hours * 3600)
        self.order_late_target.set(settings.order.late_target if settings.order.window_seconds else 1)
        self.reload_successful.set(1)  # else it would be 0 until the store is there: nothing was refused

    def begin_partition(self, partition: str, generation: int) -> None:
        """The partition is this process's now. What has not happened to it is 0, and not unknown."""
        self.generation.labels(partition).set(generation)
        self.stopped.labels(partition).set(0)
        self.missing.labels(partition)

    def store_request(self, operation: str, outcome: str) -> None:
        """One more request to the store."""
        self.store_requests.labels(operation, outcome).inc()

    def hub_request(self, operation: str, outcome: str) -> None:
        """One more question asked of the hub."""
        self.hub_requests.labels(operation, outcome).inc()

    def forget_partition(self, partition: str) -> None:
        """The partition is another process's now: what this one last knew of it must not be taken for the truth."""
        gauges = (self.stopped, self.held, self.in_flight, self.lag_events, self.lag_seconds, self.checkpoint_age)
        order = (self.order_window, self.order_late_share)
        expect = (self.expectations_pending, self.expectations_untold)
        for gauge in (*gauges, *order, *expect, self.checkpoint_sequence, self.digest_held, self.state_bytes):
            gauge.remove_by_labels({"partition": partition})
        self.generation.labels(partition).set(0)

    def forget_sink(self, sink: str) -> None:
        """The sink is not configured any more, and its lane has ended."""
        flow = (self.lane_paused, self.lane_down, self.lane_gone)
        for gauge in (self.lane_queued, *flow, self.lane_oldest_seconds, self.lane_oldest_event):
            gauge.remove_by_labels({"sink": sink})

    def _counter(self, name: str, sentence: str, *labels: str) -> Counter:
        return _Counter(f"worker_{name}", sentence, labels, registry=self.registry)

    def _gauge(self, name: str, sentence: str, *labels: str) -> Gauge:
        return _Gauge(f"worker_{name}", sentence, labels, registry=self.registry)
