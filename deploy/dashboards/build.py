"""The dashboard: five questions in the order in which somebody asks them, and what answers each.

    python -m deploy.dashboards.build > deploy/k8s/monitoring/dashboard.json

from the root of the repository. A test keeps that file so, and asks a Prometheus that watches a real worker for every
panel. What the metrics mean is in docs/metrics.md.
"""

import json
import sys

from deploy.dashboards.detail import COST, PARTITIONS, SINKS
from deploy.dashboards.grafana import Dashboard, Mark, Variable
from deploy.dashboards.queries import POD, grown, of_partition, of_pod
from deploy.dashboards.urgent import LATE, STUCK

VARIABLES = (
    Variable("namespace", "Namespace", "worker_build_info"),
    Variable("pod", "Pod", 'worker_build_info{namespace=~"$namespace"}'),
    Variable("partition", "Partition", of_pod("partition_generation")),
    Variable("sink", "Sink", of_pod("lane_queued_events")),
)

MARKS = (
    Mark(
        "Process started",
        "blue",
        "{{pod}}, version {{version}}",
        f"1000 * process_start_time_seconds{{{POD}}} * on (namespace, pod, instance) group_left (version) "
        f"{of_pod('build_info')}",
        value_is_time=True,
    ),
    Mark(
        "Rules in force",
        "green",
        "{{pod}}",
        f"1000 * {of_pod('config_last_reload_timestamp_seconds')}",
        value_is_time=True,
    ),
    Mark(
        "Partitions moved",
        "orange",
        "{{pod}} {{change}}",
        f"{grown(of_partition('ownership_changes_total'), '1m', 'pod, change')} > 0",
    ),
)

DASHBOARD = Dashboard(
    uid="event-grid-worker",
    title="Event Grid worker",
    tells="Written by deploy/dashboards/build.py. What it measures: docs/metrics.md; what to do: docs/runbook.md.",
    rows=(STUCK, LATE, SINKS, PARTITIONS, COST),
    variables=VARIABLES,
    marks=MARKS,
    tags=("event-grid-worker",),
)


def text() -> str:
    """As the file has it."""
    return json.dumps(DASHBOARD.json(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
