"""What Prometheus is asked: metrics of what is chosen above the panels, and what is made of them."""

POD = 'namespace=~"$namespace",pod=~"$pod"'
FAILED = 'outcome!~"accepted|in_progress|postponed|known|skipped"'
RATE = "$__rate_interval"


def of_pod(metric: str, *more: str) -> str:
    """The metric of the pods chosen."""
    return f"worker_{metric}{{{','.join((POD, *more))}}}"


def of_partition(metric: str, *more: str) -> str:
    """The metric of the pods and partitions chosen."""
    return of_pod(metric, 'partition=~"$partition"', *more)


def of_sink(metric: str, *more: str) -> str:
    """The metric of the pods and sinks chosen."""
    return of_pod(metric, 'sink=~"$sink"', *more)


def rate(series: str, by: str = "") -> str:
    """How much a second, summed over processes."""
    return f"sum{_by(by)} (rate({series}[{RATE}]))"


def grown(series: str, window: str, by: str = "") -> str:
    """By how much it grew. A series that begins above 0 has grown too, which `increase` alone does not see."""
    return f"sum{_by(by)} (({series} unless {series} offset {window}) or increase({series}[{window}]))"


def highest(series: str, by: str = "") -> str:
    """Of the processes that tell it, the one that tells most; a partition has one, but for moments."""
    return f"max{_by(by)} ({series})"


def total(series: str, by: str = "") -> str:
    """Summed over processes, and whatever is not in `by`."""
    return f"sum{_by(by)} ({series})"


def within(share: float, histogram: str, by: str = "") -> str:
    """The time within which this share was done."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(histogram, labels)})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
