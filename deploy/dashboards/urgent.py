"""What somebody wants to know first: whether anything is stuck, and whether anything is late."""

from deploy.dashboards.grafana import RED_FROM_1, Panel, Query, Row, stat
from deploy.dashboards.queries import grown, highest, of_partition, of_pod, of_sink, rate, total, within

NOT_WORKING = " + ".join(of_sink(f"lane_{how}") for how in ("down", "paused", "gone"))

STUCK = Row(
    "Is anything stuck?",
    [
        stat(
            "Partitions read by nobody",
            f"{highest(of_pod('hub_partitions'))} - {total(of_pod('partitions_owned'))}",
            "Partitions of the hub that no process holds; right for all pods only. For minutes: their events wait.",
            limits=RED_FROM_1,
        ),
        stat(
            "Partitions that stand still",
            total(highest(of_partition("partition_stopped"), "partition")),
            "Nothing is read of them until somebody decides: `worker resume --dry-run` says why.",
            limits=RED_FROM_1,
        ),
        stat(
            "Sinks down, paused or gone",
            total(f"clamp_max({highest(NOT_WORKING, 'sink')}, 1)"),
            "Their events wait (gone: become dead letters). Which, is below.",
            limits=RED_FROM_1,
        ),
        stat(
            "Oldest message, of the retention",
            f"{highest(of_partition('lag_seconds'))} / {highest(of_pod('source_retention_seconds'))}",
            "How much of the hub's retention the oldest message that is not settled has used up. At 100 % it is lost.",
            "percentunit",
            ((0.25, "orange"), (0.6, "red")),
        ),
        stat(
            "Dead letters",
            f"round({grown(of_sink('dead_letters_total'), '$__range')})",
            "Written in the time shown. Somebody has to look at each: `worker deadletter list`.",
            limits=((1, "orange"),),
        ),
        stat(
            "Messages lost",
            f"round({grown(of_partition('missing_messages_total'), '$__range')})",
            "In the time shown: read, not settled, and not given again, because the hub's retention had passed them.",
            limits=RED_FROM_1,
        ),
        Panel(
            "What comes, and what is done",
            "Each second. When less is settled than comes, look below for the sink.",
            [
                Query(rate(of_partition("received_messages_total")), "messages received"),
                Query(rate(of_partition("settled_events_total")), "events settled"),
            ],
            "cps",
        ),
        Panel(
            "What waits in the worker",
            "At `limits.held` events go early; at `limits.in_flight`, for each partition, reading waits.",
            [
                Query(total(of_partition("held_events")), "held for their turn"),
                Query(total(of_partition("in_flight_events")), "released, not settled"),
                Query(total(of_sink("lane_queued_events")), "deliveries queued"),
                Query(
                    total(of_sink("digest_held_events", 'partition=~"$partition"')), "settled, told later in a digest"
                ),
            ],
        ),
        Panel(
            "Progress that is not stored",
            "Since when the checkpoint is behind what is settled. Above a minute the store does not take writes.",
            [Query(highest(of_partition("checkpoint_age_seconds"), "partition"), "{{partition}}")],
            "s",
            limits=((300, "red"),),
        ),
    ],
)

LATE = Row(
    "Is anything late?",
    [
        Panel(
            "From the hub to the destination",
            "What users feel: window, queue, retries and all. Not of digests and replays.",
            [
                Query(within(share, of_sink("event_to_destination_seconds_bucket")), f"{share:.0%} within")
                for share in (0.5, 0.95, 0.99)
            ],
            "s",
        ),
        Panel(
            "Oldest message that is not settled",
            "Its age at least, since the hub had it. What is older than the retention is lost.",
            [Query(highest(of_partition("lag_seconds"), "partition"), "{{partition}}")],
            "s",
        ),
        Panel(
            "Messages that are not settled",
            "Read or not. Those in their window are always among them; growing means too slow.",
            [Query(highest(of_partition("lag_events"), "partition"), "{{partition}}")],
            stacked=True,
        ),
        Panel(
            "How long an event waits for its turn",
            "The window of each partition, which every event pays. With `auto`: what it has come to.",
            [Query(highest(of_partition("order_window_seconds"), "partition"), "{{partition}}")],
            "s",
        ),
        Panel(
            "Share of events that come late",
            "After a later one of their subject. Above the target for long: the window is too short.",
            [
                Query(
                    f"{rate(of_partition('late_events_total'), 'partition')} / "
                    f"{rate(of_partition('released_events_total'), 'partition')}",
                    "{{partition}}",
                ),
                Query(highest(of_partition("order_late_share"), "partition"), "{{partition}}, as the window sees it"),
                Query(highest(of_pod("order_late_target")), "target"),
            ],
            "percentunit",
        ),
        Panel(
            "Released before their time",
            "Events that did not get their whole window, because `limits.held` was reached.",
            [Query(rate(of_partition("released_early_events_total"), "partition"), "{{partition}}")],
            "cps",
        ),
        Panel(
            "Expectations: what became of them",
            "`missed`: what should have followed did not. `no_route`: nobody was told of it.",
            [Query(rate(of_pod("expectations_total"), "rule, outcome"), "{{rule}} {{outcome}}")],
            "cps",
        ),
        Panel(
            "Expectations: what must still come",
            "First events that wait for their second, rows of the shared table, and what is missed but not told.",
            [
                Query(total(of_partition("expectations_pending"), "rule"), "{{rule}}, pending"),
                Query(highest(of_pod("expectations_rows"), "rule"), "{{rule}}, rows"),
                Query(total(of_partition("expectations_untold")), "missed, not told"),
            ],
        ),
        Panel(
            "Alarms that wait for a partition",
            "For how long something is due that this partition is not through yet. Minutes: it is not read, or lags.",
            [Query(highest(of_pod("expectations_waiting_seconds"), "waits_for"), "{{waits_for}}")],
            "s",
            limits=((900, "red"),),
        ),
    ],
)
