"""Small SVG plots: bars per case and peer, and lines over a number that grows. Readable on light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

# One colour per peer, in order of importance; told apart in both schemes and by people who do not see red and green.
_COLOURS = ("#d4622a", "#3a7fc4", "#5aa469", "#8a6fc0", "#8c8c8c", "#c9a227")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:14px}.s{fill:#57606a;font-size:11px}"
    ".g{stroke:#d0d7de}.a{stroke:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.g{stroke:#30363d}.a{stroke:#9198a1}}"
)
_WIDTH = 760


@dataclass
class _Drawing:
    """Elements, and the height that they need."""

    title: str
    height: float
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> None:
        css = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(said)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self.height:.0f}" role="img" '
            f'aria-label="{escape(self.title, quote=True)}">'
        )
        return "\n".join([head, f"<style>{_STYLE}</style>", *self.parts, "</svg>"]) + "\n"


def bars(title: str, note: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """A group of horizontal bars per case; within a group each peer's value, drawn against the group's largest.

    Groups keep their own scale, because 1 MiB bodies and short connections have none in common.
    """
    peers = list(dict.fromkeys(peer for values in groups.values() for peer in values))
    colours = dict(zip(peers, _COLOURS * 2, strict=False))
    bar, gap, left, right = 15, 14, 210, 110
    height = 70 + sum(len(values) * bar + gap for values in groups.values())
    drawing = _Drawing(title, height)
    drawing.text(12, 22, title, kind="t")
    drawing.text(12, 40, note, kind="s")
    y = 58.0
    for case, values in groups.items():
        largest = max(values.values(), default=0.0) or 1.0
        drawing.text(left - 12, y + len(values) * bar / 2 + 4, case, anchor="end")
        for peer, value in values.items():
            width = max(1.0, (_WIDTH - left - right) * value / largest)
            shape = f'x="{left}" y="{y + 1:.1f}" width="{width:.1f}" height="{bar - 2}" rx="2"'
            drawing.parts.append(f'<rect {shape} fill="{colours[peer]}"/>')
            drawing.text(left + width + 6, y + bar - 4, f"{peer} {_short(value)}{unit}", kind="s")
            y += bar
        y += gap
    return drawing.svg()


def lines(
    title: str,
    note: str,
    across: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    unit: str,
    *,
    logarithmic: bool = True,
) -> str:
    """Values over a number, the axis of which is logarithmic where it grows in large steps; the values' begins at 0."""
    left, right, top, bottom, height = 70, 150, 58, 48, 320
    drawing = _Drawing(title, height)
    drawing.text(12, 22, title, kind="t")
    drawing.text(12, 40, note, kind="s")
    points = [point for some in series.values() for point in some]
    along = math.log10 if logarithmic else float
    first, last = along(min(x for x, _ in points)), along(max(x for x, _ in points))
    step = _step(max(y for _, y in points))
    most = step * max(1, math.ceil(max(y for _, y in points) / step))

    def place(x: float, y: float) -> tuple[float, float]:
        share = (along(x) - first) / ((last - first) or 1.0)
        return left + share * (_WIDTH - left - right), height - bottom - (height - top - bottom) * y / most

    for number in range(round(most / step) + 1):
        _, y = place(points[0][0], number * step)
        drawing.line(left, y, _WIDTH - right, y, "g")
        drawing.text(left - 8, y + 4, f"{_short(number * step)}{unit}", anchor="end", kind="s")
    drawing.line(left, height - bottom, _WIDTH - right, height - bottom, "a")
    for x in sorted({x for x, _ in points}):
        drawing.text(place(x, 0)[0], height - bottom + 17, f"{x:,.0f}", anchor="middle", kind="s")
    drawing.text((left + _WIDTH - right) / 2, height - 10, across, anchor="middle", kind="s")
    labels: list[float] = []
    for (name, some), colour in zip(series.items(), _COLOURS * 2, strict=False):
        placed = [place(x, y) for x, y in some]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawing.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawing.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        at = placed[-1][1] + 4
        while any(abs(at - other) < 14 for other in labels):
            at -= 14
        labels.append(at)
        drawing.text(placed[-1][0] + 8, at, name)
    return drawing.svg()


def _step(largest: float) -> float:
    """A round distance of grid lines, about five of them."""
    if largest <= 0:
        return 1.0
    raw = largest / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
