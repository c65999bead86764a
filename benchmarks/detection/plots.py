"""Small plots as SVG text: ranges on a logarithmic axis, and lines over token counts."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH = 760
_LEFT, _RIGHT, _ROW = 310, 20, 17
_COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#5d6d7e", "#117a65", "#b03a8c")
_STYLE = "text{font:12px sans-serif;fill:#222}.s{font-size:11px;fill:#555}.g{stroke:#ddd}.a{stroke:#888}"


class Range(NamedTuple):
    """A line of a range plot: from the 1st to the 99th percentile, with the median."""

    name: str
    low: float
    middle: float
    high: float
    honest: bool


def ranges(title: str, rows: Sequence[Range], low: float, high: float) -> str:
    """A horizontal line for each row; numbers below `low` are drawn at it."""
    height = 62 + _ROW * len(rows)
    span = WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + span * (math.log10(max(value, low) / low) / math.log10(high / low))

    parts = [_text(_LEFT, 16, title)]
    for decade in range(round(math.log10(low)), round(math.log10(high)) + 1):
        parts.append(_line(x(10.0**decade), 26, x(10.0**decade), height - 24, "g"))
        parts.append(_text(x(10.0**decade), height - 8, f"{10.0**decade:g}", "middle", "s"))
    for place, row in enumerate(rows):
        y = 38 + _ROW * place
        colour = _COLOURS[0] if row.honest else _COLOURS[1]
        parts.append(_text(_LEFT - 8, y + 4, row.name, "end"))
        parts.append(
            f'<line x1="{x(row.low):.1f}" y1="{y}" x2="{x(row.high):.1f}" y2="{y}" stroke="{colour}" stroke-width="4" opacity=".55"/>'
        )
        parts.append(f'<circle cx="{x(row.middle):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    return _svg(height, parts)


def lines(
    title: str, across: Sequence[float], series: Mapping[str, Sequence[float]], bottom: float, top: float
) -> str:
    """Lines over a logarithmic axis, each with its name in the legend."""
    height, left, right = 360, 50, 330
    span, tall = WIDTH - left - right, height - 76

    def x(value: float) -> float:
        return left + span * math.log(value / across[0]) / math.log(across[-1] / across[0])

    def y(value: float) -> float:
        return 36 + tall * (top - min(max(value, bottom), top)) / (top - bottom)

    parts = [_text(left, 16, title)]
    for step in range(6):
        value = bottom + (top - bottom) * step / 5
        parts.append(_line(left, y(value), left + span, y(value), "g"))
        parts.append(_text(left - 6, y(value) + 4, f"{value:g}", "end", "s"))
    parts += [_text(x(value), height - 20, f"{value:g}", "middle", "s") for value in across]
    parts.append(_text(left + span / 2, height - 4, "tokens", "middle", "s"))
    for place, (name, values) in enumerate(series.items()):
        colour, dashes = _COLOURS[place % 8], ' stroke-dasharray="5 3"' if place >= 8 else ""
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(across, values, strict=False))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        level = 44 + 19 * place
        edge = left + span + 16
        parts.append(
            f'<line x1="{edge}" y1="{level - 4}" x2="{edge + 20}" y2="{level - 4}" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        parts.append(_text(edge + 26, level, name))
    return _svg(height, parts)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
