"""Draws what Prometheus answered, panel by panel where the dashboard has them, as a page. It is not Grafana."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from tests.deploy.prometheus import Line

_WIDTH, _HEIGHT, _EDGE = 360, 150, 46
_COLOURS = ("#3d71d9", "#37872d", "#e02f44", "#ff9830", "#8f3bb8", "#0a7e8c", "#c4162a", "#6b6b00", "#806eb7", "#555")
_LAMPS = {"green": "#37872d", "orange": "#c15c17", "red": "#c4162a", "dark-red": "#7a0c1b"}
_LONGEST_GAP_SECONDS = 3
_MOST_NAMED = 8
_STYLE = """
body { margin: 16px; font: 12px/1.35 'DejaVu Sans', sans-serif; color: #1f2328; background: #f4f5f7; width: 1168px }
h1 { font-size: 18px; margin: 0 } p { margin: 2px 0 8px } h2 { font-size: 14px; margin: 14px 0 6px }
.row { display: grid; grid-template-columns: repeat(24, 1fr); gap: 8px }
.panel { background: #fff; border: 1px solid #d8dbe0; border-radius: 4px; padding: 6px 8px; overflow: hidden }
.panel h3 { font-size: 12px; margin: 0 0 4px } .stat { text-align: center; color: #fff }
.stat b { font-size: 24px; font-weight: 600 } svg { width: 100%; display: block }
.names { font-size: 10px; margin: 2px 0 0 } .names span { margin-right: 8px; white-space: nowrap }
text { font-size: 10px; fill: #57606a } .bar { fill: #fff; font-size: 9px }
"""


class Drawn(NamedTuple):
    """A line and what it is called."""

    name: str
    points: list[tuple[float, float]]


class Scale(NamedTuple):
    """Which seconds lie between left and right, and how high the highest value is."""

    begin: float
    end: float
    highest: float

    def x(self, at: float) -> float:
        share = (at - self.begin) / (self.end - self.begin)
        return round(_EDGE + share * (_WIDTH - _EDGE), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - 14 - max(value, 0) / self.highest * (_HEIGHT - 22), 1)


def named(form: str, line: Line) -> Drawn:
    """The line, called as Grafana would call it."""
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: line.labels.get(found[1], ""), form)
    return Drawn(name.strip(), line.points)


def page(
    dashboard: Mapping[str, Any],
    lines: Mapping[int, Sequence[Drawn]],
    marks: Mapping[str, Sequence[float]],
    span: tuple[float, float],
) -> str:
    """The whole page; `lines` by the number of the panel, `marks` the moments by colour."""
    parts, is_open = [], False
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            parts.append(f"{'</div>' * is_open}<h2>{escape(panel['title'])}</h2><div class='row'>")
            is_open = True
        else:
            parts.append(_panel(panel, lines[panel["id"]], marks, span))
    title = f"<h1>{escape(dashboard['title'])}</h1><p>{_legend(dashboard)}</p>"
    body = f"{title}{''.join(parts)}</div>"
    return f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><style>{_STYLE}</style><body>{body}</body></html>"


def _legend(dashboard: Mapping[str, Any]) -> str:
    own = [each for each in dashboard["annotations"]["list"] if "expr" in each]
    return " ".join(f"<span style='color:{each['iconColor']}'>┆ {escape(each['name'])}</span>" for each in own)


def _panel(
    panel: Mapping[str, Any],
    lines: Sequence[Drawn],
    marks: Mapping[str, Sequence[float]],
    span: tuple[float, float],
) -> str:
    columns = f"grid-column:span {panel['gridPos']['w']}"
    title = f"<h3>{escape(panel['title'])}</h3>"
    if panel["type"] == "stat":
        value = lines[0].points[-1][1]
        colour = _LAMPS[_limit(panel, value)]
        told = escape(_amount(value, panel))
        return f"<div class='panel stat' style='{columns};background:{colour}'>{title}<b>{told}</b></div>"
    draw = _bars if panel["type"] == "state-timeline" else _curves
    return f"<div class='panel' style='{columns}'>{title}{draw(panel, lines, marks, span)}</div>"


def _limit(panel: Mapping[str, Any], value: float) -> str:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return next(step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"])


def _curves(
    panel: Mapping[str, Any],
    lines: Sequence[Drawn],
    marks: Mapping[str, Sequence[float]],
    span: tuple[float, float],
) -> str:
    highest = max(value for line in lines for _, value in line.points)
    scale = Scale(*span, highest if highest > 0 else 1)
    drawn = "".join(
        f"<path d='{_path(line, scale)}' fill='none' stroke='{_colour(number)}' stroke-width='1.4'/>"
        for number, line in enumerate(lines)
    )
    grid = "".join(_grid(panel, scale, share) for share in (0, 0.5, 1))
    return f"{_svg(grid + _moments(marks, scale) + drawn, _HEIGHT)}<p class='names'>{_names(lines)}</p>"


def _names(lines: Sequence[Drawn]) -> str:
    shown = "".join(
        f"<span style='color:{_colour(number)}'>— {escape(line.name)}</span>"
        for number, line in enumerate(lines[:_MOST_NAMED])
    )
    return shown + (f"and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else "")


def _path(line: Drawn, scale: Scale) -> str:
    steps = [f"M{scale.x(line.points[0][0])} {scale.y(line.points[0][1])}h1"]
    for (before, _), (at, value) in pairwise(line.points):
        command = "M" if at - before > _LONGEST_GAP_SECONDS else "L"
        steps.append(f"{command}{scale.x(at)} {scale.y(value)}")
    return "".join(steps)


def _grid(panel: Mapping[str, Any], scale: Scale, share: float) -> str:
    y = scale.y(scale.highest * share)
    label = escape(_amount(scale.highest * share, panel))
    line = f"<line x1='{_EDGE}' x2='{_WIDTH}' y1='{y}' y2='{y}' stroke='#e4e6ea'/>"
    return f"{line}<text x='{_EDGE - 4}' y='{y + 3}' text-anchor='end'>{label}</text>"


def _moments(marks: Mapping[str, Sequence[float]], scale: Scale) -> str:
    return "".join(
        f"<line x1='{scale.x(at)}' x2='{scale.x(at)}' y1='4' y2='{_HEIGHT - 14}' stroke='{colour}' "
        "stroke-dasharray='2 3' stroke-width='.8'/>"
        for colour, moments in marks.items()
        for at in moments
        if scale.begin <= at <= scale.end
    )


def _bars(
    panel: Mapping[str, Any],
    lines: Sequence[Drawn],
    _: Mapping[str, Sequence[float]],
    span: tuple[float, float],
) -> str:
    """For each line a strip whose colour says what it was when."""
    scale, height = Scale(*span, 1), 17
    words = _words(panel)
    parts = []
    for number, line in enumerate(lines):
        top = number * height
        parts.append(f"<text x='0' y='{top + 12}'>{escape(line.name.replace('event-grid-worker-', ''))}</text>")
        for begin, end, value in _spells(line):
            text, colour = words.get(f"{value:g}", (f"{value:g}", _colour(int(value) - 1)))
            x, width = 70 + (scale.x(begin) - _EDGE) * 0.88, (scale.x(end) - scale.x(begin)) * 0.88
            parts.append(f"<rect x='{x}' y='{top}' width='{width}' height='{height - 3}' fill='{colour}'/>")
            if width > 40:
                parts.append(f"<text class='bar' x='{x + 3}' y='{top + 11}'>{escape(text)}</text>")
    return _svg("".join(parts), height * len(lines))


def _words(panel: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    options = mappings[0]["options"] if mappings else {}
    return {value: (each["text"], _LAMPS[each["color"]]) for value, each in options.items()}


def _spells(line: Drawn) -> list[tuple[float, float, float]]:
    """From when to when it had which value."""
    spells: list[tuple[float, float, float]] = []
    for at, value in line.points:
        if spells and spells[-1][2] == value and at - spells[-1][1] <= _LONGEST_GAP_SECONDS:
            spells[-1] = (spells[-1][0], at, value)
        else:
            begin = spells[-1][1] if spells and at - spells[-1][1] <= _LONGEST_GAP_SECONDS else at
            spells.append((begin, at, value))
    return spells


def _svg(content: str, height: int) -> str:
    return f"<svg viewBox='0 0 {_WIDTH} {height}'>{content}</svg>"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _amount(value: float, panel: Mapping[str, Any]) -> str:
    """The value with its unit, short."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    letter, divisor = next(((each, size) for each, size in _THOUSANDS if value >= size), ("", 1))
    return f"{value / divisor:.3g}{letter}{_UNITS.get(unit, '')}"


_THOUSANDS = (("M", 1_000_000), ("k", 1_000))
_UNITS = {"s": " s", "cps": "/s", "reqps": "/s", "wps": "/s", "bytes": "B", "Bps": "B/s"}
