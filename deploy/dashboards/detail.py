"""Where it is, and what it costs: sink by sink, partition by partition, request by request."""

from deploy.dashboards.grafana import RED_FROM_1, Panel, Query, Row, stat
from deploy.dashboards.queries import (
    FAILED,
    POD,
    RATE,
    grown,
    highest,
    of_partition,
    of_pod,
    of_sink,
    rate,
    total,
    within,
)

_MONTH_SECONDS = 30 * 24 * 3600
ACCEPTED = of_sink("deliveries_total", 'outcome="accepted"')

SINKS = Row(
    "Which sink?",
    [
        Panel(
            "How each sink stands",
            "Down: only probed. Paused: it refuses the worker, or the configuration says so. Gone: for good.",
            [
                Query(
                    f"{highest(of_sink('lane_down'), 'sink')} + 2 * {highest(of_sink('lane_paused'), 'sink')} "
                    f"+ 4 * {highest(of_sink('lane_gone'), 'sink')}",
                    "{{sink}}",
                )
            ],
            kind="state-timeline",
            words=(
                (0, "works", "green"),
                (1, "down", "red"),
                (2, "paused", "orange"),
                (3, "down and paused", "red"),
                (4, "gone", "dark-red"),
            ),
        ),
        Panel(
            "What waits for it",
            "Deliveries that wait or are being tried. Growing: the sink is slower than what comes.",
            [Query(total(of_sink("lane_queued_events"), "sink"), "{{sink}}")],
        ),
        Panel(
            "Its oldest event",
            "How long ago the hub had the oldest event that waits for it: who holds up the lag.",
            [Query(f"time() - min by (sink) ({of_sink('lane_oldest_event_timestamp_seconds')} > 0)", "{{sink}}")],
            "s",
        ),
        Panel(
            "Accepted",
            "Deliveries that the destination took.",
            [Query(rate(ACCEPTED, "sink"), "{{sink}}")],
            "cps",
        ),
        Panel(
            "Attempts that failed",
            "By how they ended. Temporary ones are tried again; rejected ones are dead letters.",
            [Query(rate(of_sink("deliveries_total", FAILED), "sink, outcome"), "{{sink}} {{outcome}}")],
            "cps",
        ),
        Panel(
            "How long an attempt takes",
            "95 % of the attempts end within.",
            [Query(within(0.95, of_sink("delivery_seconds_bucket"), "sink"), "{{sink}}")],
            "s",
        ),
        Panel(
            "From the hub to it",
            "95 % of the events have come there within, window, queue, retries and all.",
            [Query(within(0.95, of_sink("event_to_destination_seconds_bucket"), "sink"), "{{sink}}")],
            "s",
        ),
        Panel(
            "Dead letters, in five minutes",
            "By sink and reason; what cannot be decoded has no sink.",
            [Query(grown(of_sink("dead_letters_total"), "5m", "sink, reason"), "{{sink}} {{reason}}")],
        ),
        Panel(
            "What the ledger knew, in five minutes",
            "`resent`: it may be there twice. `skipped`: a dead letter. `already_accepted`: one was spared.",
            [Query(grown(of_sink("ledger_decisions_total"), "5m", "sink, decision"), "{{sink}} {{decision}}")],
        ),
        Panel(
            "Digests",
            "Messages for several events, by why. `limit`, `mute`: people would have been told too often.",
            [Query(rate(of_sink("digests_total"), "sink, because"), "{{sink}} {{because}}")],
            "cps",
        ),
        Panel(
            "Held for a digest",
            "Settled and safe, not yet told. Not falling for long: the sink does not take digests.",
            [Query(total(of_sink("digest_held_events", 'partition=~"$partition"'), "sink"), "{{sink}}")],
        ),
        Panel(
            "Left out, as routes and quiet hours want it",
            "Superseded by a newer event, no change since the last, or muted.",
            [
                Query(rate(of_sink(f"{what}_events_total"), "sink"), f"{{{{sink}}}} {what}")
                for what in ("superseded", "unchanged", "muted")
            ],
            "cps",
        ),
    ],
)

PARTITIONS = Row(
    "Which partition?",
    [
        Panel(
            "Who reads it",
            "The pod that holds it; the number is the generation, which grows with each owner.",
            [Query(f"{highest(of_partition('partition_generation'), 'partition, pod')} > 0", "{{partition}} {{pod}}")],
            kind="state-timeline",
        ),
        Panel(
            "Ownership changes, in five minutes",
            "Some at each start and stop. All the time: thrash, and each change repeats a little.",
            [
                Query(
                    grown(of_partition("ownership_changes_total"), "5m", "partition, change"),
                    "{{partition}} {{change}}",
                )
            ],
        ),
        Panel(
            "Partitions taken, in five minutes",
            "`handed_over` is the balancing; `silent`: the owner before died or was frozen.",
            [Query(grown(of_partition("partition_takes_total"), "5m", "how"), "{{how}}")],
        ),
        Panel(
            "Messages received",
            "0 while there is lag: nothing is read.",
            [Query(rate(of_partition("received_messages_total"), "partition"), "{{partition}}")],
            "cps",
        ),
        Panel(
            "Events settled, by how",
            "The worker's throughput.",
            [Query(rate(of_partition("settled_events_total"), "outcome"), "{{outcome}}")],
            "cps",
            stacked=True,
        ),
        Panel(
            "Held for their turn, and released",
            "About rate times window; and what a sink has not taken yet.",
            [
                Query(total(of_partition("held_events"), "partition"), "{{partition}} held"),
                Query(total(of_partition("in_flight_events"), "partition"), "{{partition}} in flight"),
            ],
        ),
        Panel(
            "Sent again",
            "`same` is dropped, `other_data` delivered. Some are normal.",
            [Query(rate(of_partition("duplicate_events_total"), "partition, kind"), "{{partition}} {{kind}}")],
            "cps",
        ),
        Panel(
            "Cannot be decoded",
            "A dead letter each. Many of them stop the partition.",
            [Query(rate(of_partition("bad_events_total"), "partition, reason"), "{{partition}} {{reason}}")],
            "cps",
        ),
        Panel(
            "The link to the hub, and order before it",
            "Errors that the client mends itself, times it was replaced; subjects on several partitions have no order.",
            [
                Query(f"round({grown(of_pod('source_errors_total'), '5m')})", "errors, in five minutes"),
                Query(f"round({grown(of_pod('client_restarts_total'), '5m', 'reason')})", "replaced: {{reason}}"),
                Query(highest(of_pod("subjects_on_several_partitions")), "subjects on several partitions"),
            ],
        ),
    ],
)

COST = Row(
    "What does it cost?",
    [
        stat(
            "Store requests in a month",
            f"{_MONTH_SECONDS} * sum(rate({of_pod('store_requests_total')}[$__range]))",
            "As in the time shown. What the bill counts: on Blob each HTTP request, of SQLite each transaction.",
        ),
        stat(
            "Store requests for 1,000 events",
            f"1000 * sum(rate({of_pod('store_requests_total')}[$__range])) "
            f"/ sum(rate({of_pod('settled_events_total')}[$__range]))",
            "Falls as more comes: progress is written by time.",
        ),
        stat(
            "Attempts for one accepted",
            f"sum(rate({of_sink('deliveries_total')}[$__range])) / sum(rate({ACCEPTED}[$__range]))",
            "Above 1: second tries, and questions how something stands.",
        ),
        stat("Processes", f"count({of_pod('build_info')})", "That Prometheus sees, of the pods chosen."),
        stat(
            "Versions",
            f"count(count by (version) ({of_pod('build_info')}))",
            "Of the worker that run. More than one for long: a rollout that does not end.",
            limits=((2, "orange"),),
        ),
        stat(
            "Rules refused",
            f"sum(1 - {of_pod('config_last_reload_successful')})",
            "Processes that go by the rules of before: routes.yaml as it stands has mistakes. The log names them.",
            limits=RED_FROM_1,
        ),
        Panel(
            "Requests to the store",
            "Writes cost about ten times what reads do.",
            [Query(rate(of_pod("store_requests_total"), "operation"), "{{operation}}")],
            "reqps",
            stacked=True,
        ),
        Panel(
            "Requests to the store, by how they ended",
            "`conflict`, `missing` are part of the protocol. `throttled`: the account's limit. `no_answer`: network.",
            [Query(rate(of_pod("store_requests_total"), "outcome"), "{{outcome}}")],
            "reqps",
        ),
        Panel(
            "Questions to the hub",
            "Each opens a connection of its own. Receiving is none.",
            [Query(rate(of_pod("hub_requests_total"), "operation, outcome"), "{{operation}} {{outcome}}")],
            "reqps",
        ),
        Panel(
            "Memory written",
            "What it costs to remember subjects, copies, digests and expectations.",
            [Query(rate(of_partition("memory_written_bytes_total"), "kind"), "{{kind}}")],
            "Bps",
            stacked=True,
        ),
        Panel(
            "Size of the state",
            "Written about once a second under load. Megabytes: very much is unsettled.",
            [Query(highest(of_partition("state_bytes"), "partition"), "{{partition}}")],
            "bytes",
        ),
        Panel(
            "Writes of the state",
            "`failed`: deliveries go on, and are repeated if the process dies now.",
            [Query(rate(of_partition("state_writes_total"), "outcome"), "{{outcome}}")],
            "wps",
        ),
        Panel(
            "CPU",
            "Cores in use.",
            [Query(f"sum by (pod) (rate(process_cpu_seconds_total{{{POD}}}[{RATE}]))", "{{pod}}")],
        ),
        Panel(
            "Memory",
            "Resident. Grows with `limits.held`, `limits.in_flight` and the subjects that are remembered.",
            [Query(f"sum by (pod) (process_resident_memory_bytes{{{POD}}})", "{{pod}}")],
            "bytes",
        ),
        Panel(
            "Partitions for each process",
            "Evenly, when nothing moves. One that has none waits to take over.",
            [Query(total(of_pod("partitions_owned"), "pod"), "{{pod}}")],
        ),
    ],
)
