"""A dashboard as Grafana stores it: rows of panels, 24 columns wide, in the documented form of its JSON (version 38).

Plain dictionaries, without Grafana's Foundation SDK: that calls itself alpha, orders its releases by build time and not
by the Grafana they are for, so no range of versions can name one, and would be 2 MB for what is little here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

COLUMNS = 24
SCHEMA_VERSION = 38
"""Of Grafana 10.1; later ones read it, and bring it up to theirs."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GREEN = {"color": "green", "value": None}
_OUTSIDE = {"builtIn": 1, "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "enable": True, "hide": True}


@dataclass(frozen=True)
class Query:
    """What Prometheus is asked, and what a line of the answer is called."""

    expression: str
    name: str


@dataclass(frozen=True)
class Panel:
    """One drawing, with what it tells under its little i."""

    title: str
    tells: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    stacked: bool = False
    limits: Sequence[tuple[float, str]] = ()
    """From which value on it has which colour; below the first it is green."""
    words: Sequence[tuple[float, str, str]] = ()
    """What a value is called, and its colour."""


RED_FROM_1 = ((1, "red"),)
"""Where none is well."""


def stat(
    title: str, expression: str, tells: str, unit: str = "short", limits: Sequence[tuple[float, str]] = ()
) -> Panel:
    """One number, on the colour of its limit."""
    return Panel(title, tells, [Query(expression, "")], unit, "stat", width=4, height=4, limits=limits)


@dataclass(frozen=True)
class Row:
    """A question, and the panels that answer it, from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """One that is chosen above the panels, all at first; its values are those that a label has."""

    name: str
    label: str
    series: str
    """What is asked for the label, which is called like the variable unless `values_of` says another."""
    values_of: str = ""

    @property
    def query(self) -> str:
        """As Grafana asks."""
        return f"label_values({self.series}, {self.values_of or self.name})"


@dataclass(frozen=True)
class Mark:
    """Vertical lines in all panels: moments at which something changed."""

    title: str
    colour: str
    text: str
    expression: str
    value_is_time: bool = False
    """Whether the value is the moment, in milliseconds; else the times at which there is one are."""


@dataclass(frozen=True)
class Dashboard:
    """All of it."""

    uid: str
    title: str
    tells: str
    rows: Sequence[Row]
    variables: Sequence[Variable]
    marks: Sequence[Mark]
    tags: Sequence[str] = field(default=())

    def json(self) -> Json:
        """As Grafana imports it."""
        return {
            "annotations": {"list": [_own_annotations(), *map(_annotation, self.marks)]},
            "description": self.tells,
            "editable": True,
            "fiscalYearStartMonth": 0,
            "graphTooltip": 1,
            "id": None,
            "links": [],
            "liveNow": False,
            "panels": list(_placed(self.rows)),
            "refresh": "30s",
            "schemaVersion": SCHEMA_VERSION,
            "style": "dark",
            "tags": list(self.tags),
            "templating": {"list": [_choice_of_source(), *map(_variable, self.variables)]},
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
            "weekStart": "",
        }


def _placed(rows: Iterable[Row]) -> Iterable[Json]:
    """Every row's line and its panels, side by side until the columns are full, and numbered."""
    number = top = 0
    for row in rows:
        number += 1
        yield _line(row.title, number, top)
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            number += 1
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _line(title: str, number: int, top: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel) -> Json:
    instant = panel.kind == "stat"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "targets": [_target(query, number, instant=instant) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _target(query: Query, number: int, *, instant: bool) -> Json:
    return {
        "refId": "ABCDEFGH"[number],
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": query.name,
        "instant": instant,
        "range": not instant,
    }


def _defaults(panel: Panel) -> Json:
    steps = [_GREEN, *({"color": colour, "value": value} for value, colour in panel.limits)]
    texts = {
        f"{value:g}": {"color": colour, "index": index, "text": text}
        for index, (value, text, colour) in enumerate(panel.words)
    }
    return {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [{"type": "value", "options": texts}] if texts else [],
        "custom": _custom(panel),
        **({"min": 0} if panel.kind == "timeseries" else {}),
    }


def _custom(panel: Panel) -> Json:
    match panel.kind:
        case "timeseries":
            return {
                "drawStyle": "line",
                "fillOpacity": 40 if panel.stacked else 8,
                "lineWidth": 1,
                "showPoints": "never",
                "stacking": {"group": "A", "mode": "normal" if panel.stacked else "none"},
                "thresholdsStyle": {"mode": "dashed" if panel.limits else "off"},
            }
        case "state-timeline":
            return {"fillOpacity": 75, "lineWidth": 0}
    return {}


_LEGEND = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
_OPTIONS: dict[str, Json] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "state-timeline": {
        "alignValue": "left",
        "legend": {**_LEGEND, "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.85,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "stat": {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    },
}


def _choice_of_source() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "queryValue": "",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def _variable(variable: Variable) -> Json:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.label,
        "datasource": SOURCE,
        "definition": variable.query,
        "query": {"query": variable.query, "refId": f"variable-{variable.name}"},
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        # What has no such label is meant too: a Prometheus that gives pods no name, or a metric without the label.
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }


def _own_annotations() -> Json:
    return {**_OUTSIDE, "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts", "type": "dashboard"}


def _annotation(mark: Mark) -> Json:
    return {
        "name": mark.title,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": mark.colour,
        "expr": mark.expression,
        "step": "30s",
        "titleFormat": mark.title,
        "textFormat": mark.text,
        "useValueForTime": mark.value_is_time,
    }
