"""What to make of each metric, and what bounds each label: the part of docs/metrics.md that no code says."""

LABELS = {
    "partition": (
        32,
        "The hub's partitions: at most 32 (premium 100, dedicated 1,024). Gauges only where they are owned.",
    ),
    "sink": (
        10,
        (
            "Sinks in `routes.yaml`; `(expectations)`, the worker's own lane to the shared table; for dead letters also"
            " none."
        ),
    ),
    "route": (10, "Routes in `routes.yaml`."),
    "rule": (10, "Rules in `expect`."),
    "outcome": (9, "Words fixed in the code, which the metric's sentence or this page lists."),
    "reason": (
        20,
        "Words fixed in the code: [why dead letters](operations.md#dead-letters-appear); `worker/decode.py`.",
    ),
    "operation": (
        4,
        (
            "Words fixed in the code. Hub: `hub_properties`, `partition_properties`. Store: `read`, `write`, `list`, "
            "`delete`."
        ),
    ),
    "schema": (2, "`eventgrid`, `cloudevents`."),
    "key": (2, "`sequencer`, `time`."),
    "kind": (4, "Words fixed in the code, which the metric's sentence lists."),
    "decision": (6, "Words fixed in the code, which the metric's sentence lists."),
    "because": (4, "Words fixed in the code, which the metric's sentence lists."),
    "change": (3, "`taken`, `given_up`, `lost`."),
    "how": (3, "Words fixed in the code, which the metric's sentence lists."),
    "waits_for": (32, "Partitions, as above."),
    "digest": (1, "Of the rules in force: one at a time in each process."),
    "version": (1, "One in each process."),
    "python": (1, "One in each process."),
}
"""Label: values in the example, and what bounds them."""

NOTES = {
    "What comes in": {
        "worker_received_messages": (
            "Its rate is what the hub gives. 0 while `worker_lag_events` is above 0: nothing is read."
        ),
        "worker_missing_messages": "Anything above 0 is loss: the retention was shorter than the delay.",
        "worker_repeated_messages": "Rises after reconnects; harmless.",
        "worker_decoded_events": "Shows which envelope the subscriptions send.",
        "worker_bad_events": "Dead letters each. Many of them stop the partition.",
        "worker_partition_stopped": "Nothing goes on by itself: somebody has to decide.",
        "worker_weak_order_events": (
            "The publisher sends a sequencer or a time that cannot be used; order is weaker for these."
        ),
        "worker_source_errors": "The SDK tries again by itself. Look at the log when it goes on.",
        "worker_client_restarts": "The watchdog connected anew. More than a few: the network, or the hub.",
        "worker_lag_events": (
            "The number to scale by. Above 0 for good: too slow, or something waits. Numbers of the hub may have "
            "gaps, which count until they are passed. Below 0: the hub is another one than the position's. Absent "
            "until the hub has said how far it is (a few seconds after a partition was taken), and, with a time as "
            "`source.start`, until the first message."
        ),
        "worker_lag_seconds": (
            "To be held against the retention: what is older is lost. Exact for what was read; of what was not "
            "read, counted from the newest message the hub had when it was first heard of, so the truth may be "
            "more, and shows when it is read. Where nothing comes, the hub is asked every 30 seconds."
        ),
        "worker_source_retention_seconds": "What alerts compare the lag with: `source.retention_hours`.",
        "worker_hub_partitions": "To be held against the sum of `worker_partitions_owned`.",
        "worker_hub_requests": (
            "Each opens a connection of its own. Besides, the hub counts connections and bytes out; its own metrics"
            " tell."
        ),
    },
    "Order": {
        "worker_held_events": "About rate times window. At `limits.held` events go early.",
        "worker_order_window_seconds": "With `auto`: what it has come to. This is latency that every event pays.",
        "worker_order_late_share": (
            "Above the target for long: the window is at its longest, or events come later than any window."
        ),
        "worker_order_late_target": "What alerts compare the late share with.",
        "worker_released_events": "Throughput behind the order stage.",
        "worker_released_early_events": (
            "Order was given up for memory: raise `limits.held`, or make the window shorter."
        ),
        "worker_order_kind_changes": (
            "Two publishers for one subject, or one that changed: order between the kinds is not known."
        ),
        "worker_subjects_on_several_partitions": (
            "Above 0: order is lost before the worker sees anything. Send with the subject as partition key."
        ),
        "worker_late_events": "Over `worker_released_events_total`: the late share.",
        "worker_duplicate_events": "Event Grid delivers at least once; some are normal.",
    },
    "Deliveries": {
        "worker_settled_events": (
            "Its rate is the worker's throughput; `delivered`, `no_route`, `late_dropped`, `duplicate`, `grouped`, "
            "`superseded`, `unchanged`, `muted`, `bad`, `empty`."
        ),
        "worker_in_flight_events": "At `limits.in_flight` reading waits: a sink is slow.",
        "worker_deliveries": (
            "`accepted` over all is the success rate; `in_progress`, `postponed`, `known` and `skipped` are no "
            "failures."
        ),
        "worker_delivery_seconds": "How long the destination takes.",
        "worker_event_to_destination_seconds": (
            "What users feel: window, queue, retries and all. What the ledger knew already is not in it."
        ),
        "worker_lane_queued_events": (
            "Growing: the sink is slower than what comes. Its partitions fill up, and then reading waits."
        ),
        "worker_lane_paused": "Repair secret, role or address; or somebody said `paused: true`.",
        "worker_lane_down": "Repair the destination; nothing is lost until the time to give up.",
        "worker_lane_gone": "Everything for this sink becomes a dead letter, in this process.",
        "worker_lane_oldest_seconds": "To be held against `retry.give_up_after_seconds`.",
        "worker_lane_oldest_event_timestamp_seconds": (
            "`time() - x` (where x is above 0) is the age of the oldest undelivered event of a sink: who holds up "
            "the lag."
        ),
        "worker_ledger_decisions": "`resent`: it may have arrived twice. `skipped`: a dead letter, `unknown_outcome`.",
        "worker_ledger_expired_entries": "Housekeeping.",
        "worker_dead_letters": "Somebody has to look at each: replay or drop.",
        "worker_dead_letters_expired": (
            "Anything above 0: letters went that nobody had looked at for `dead_letters.keep_days`."
        ),
        "worker_replays": "`accepted` is what you want; the others stay dead letters.",
    },
    "Who is told, and when": {
        "worker_digests": "`limit` and `mute` among many: people would have been told too often.",
        "worker_digest_held_events": (
            "Settled and safe, not yet told. Not falling for long: its sink does not take digests."
        ),
        "worker_superseded_events": "As the route wants it; their number says what `only: latest` saves.",
        "worker_unchanged_events": "As the route wants it; their number says what `changed` saves.",
        "worker_muted_events": "As the mute window wants it.",
        "worker_expectations": (
            "`missed` over `met` and `missed` is the rule's own result; anything else was not judged."
        ),
        "worker_expectations_pending": "Grows with `within` times rate; at 10,000 on a partition more are not watched.",
        "worker_expectations_rows": "At 10,000 no more are watched of this rule.",
        "worker_expectations_waiting_seconds": "Minutes: the partition it names is not read, or lags.",
        "worker_expectations_untold": "Above 0 for long: the sink of the alarm does not take it.",
    },
    "Partitions and the store": {
        "worker_partitions_owned": (
            "Summed over processes: the partitions of the hub. Less for long: some are read by nobody."
        ),
        "worker_partition_generation": "Grows with each owner. Two processes with the same: impossible, report it.",
        "worker_ownership_changes": (
            "A few at each start and stop. All the time: thrash, and each change repeats a little."
        ),
        "worker_partition_takes": (
            "`handed_over` is the balancing (a steal that was agreed); `silent`: the former owner died or was frozen."
        ),
        "worker_store_requests": (
            "What the bill counts: on Blob each HTTP request, second tries and pages of lists too. `conflict` and "
            "`missing` are part of the protocol; `throttled`: the account's limit; `no_answer`: network."
        ),
        "worker_state_bytes": "Written about once a second under load. Megabytes: very much is unsettled.",
        "worker_state_writes": "`failed`: deliveries go on, and are repeated if the process dies now.",
        "worker_memory_written_bytes": "What subjects and duplicates cost in writes.",
        "worker_memory_parts_lost": "Somebody, or a life-cycle rule, deleted from the container.",
        "worker_digest_parts_lost": "The same; their events are told by nobody.",
        "worker_expectation_parts_lost": "The same; of these nobody will be told.",
        "worker_checkpoint_sequence_number": "Where the next owner goes on, and what scalers look at.",
        "worker_checkpoint_age_seconds": "Above a minute: the store does not take writes.",
    },
    "Rules and versions": {
        "worker_config_reloads": "`refused`: the log names every mistake.",
        "worker_config_last_reload_successful": "0: `routes.yaml` as it stands is not what is in force.",
        "worker_config_last_reload_timestamp_seconds": "When the last change took effect.",
        "worker_config_info": "Two digests among the processes for long: some have not got the change.",
        "worker_build_info": "Which version runs where.",
    },
}
"""Family name, without the `_total` of counters: what to make of it."""
