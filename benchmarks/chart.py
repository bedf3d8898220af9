"""A bar chart as SVG: panels side by side, a bar for each contestant in each."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

BAR, GAP = 18, 8
LABELS, PANEL, VALUES = 190, 190, 60
"""Widths: of the names on the left; of the bars of a panel; of what is written behind the longest of them."""
TOP, MARGIN = 56, 16

OURS, OTHERS = "#1d6fb8", "#b4b9c0"
INK, PAPER = "#24292f", "#ffffff"


@dataclass(frozen=True)
class Bar:
    """``text`` is the value as it is to be read; a value of ``None`` has no bar, and the text says why."""

    value: float | None
    text: str


@dataclass(frozen=True)
class Panel:
    title: str
    bars: Sequence[Bar]
    """One for each name, in their order."""


def draw(title: str, names: Sequence[str], ours: Sequence[bool], panels: Sequence[Panel]) -> str:
    """Draw the chart. Each panel has its own scale, from zero."""
    width = MARGIN + LABELS + len(panels) * (PANEL + VALUES) + MARGIN
    height = TOP + len(names) * (BAR + GAP) + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>',
        f'<text x="{MARGIN}" y="22" font-size="14" font-weight="600" fill="{INK}">{escape(title)}</text>',
    ]
    for row, (name, is_ours) in enumerate(zip(names, ours, strict=True)):
        weight = ' font-weight="600"' if is_ours else ""
        lines.append(
            f'<text x="{MARGIN + LABELS - 8}" y="{_middle(row)}" text-anchor="end" fill="{INK}"{weight}>'
            f"{escape(name)}</text>"
        )
    for column, panel in enumerate(panels):
        left = MARGIN + LABELS + column * (PANEL + VALUES)
        lines.append(
            f'<text x="{left}" y="{TOP - 10}" font-weight="600" fill="{INK}">{escape(panel.title)}</text>'
        )
        lines += _bars(panel, ours, left)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _bars(panel: Panel, ours: Sequence[bool], left: int) -> list[str]:
    longest = max((bar.value for bar in panel.bars if bar.value is not None), default=0.0) or 1.0
    lines = []
    for row, (bar, is_ours) in enumerate(zip(panel.bars, ours, strict=True)):
        length = 0.0 if bar.value is None else max(1.0, PANEL * bar.value / longest)
        if length:
            lines.append(
                f'<rect x="{left}" y="{_top(row)}" width="{length:.1f}" height="{BAR}" rx="2" '
                f'fill="{OURS if is_ours else OTHERS}"/>'
            )
        lines.append(
            f'<text x="{left + length + 5:.1f}" y="{_middle(row)}" fill="{INK}">{escape(bar.text)}</text>'
        )
    return lines


def _top(row: int) -> int:
    return TOP + row * (BAR + GAP)


def _middle(row: int) -> int:
    """Where text stands that belongs to the row: its baseline."""
    return _top(row) + BAR - 5
