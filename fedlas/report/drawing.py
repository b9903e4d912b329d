"""SVG primitives of the diagrams: colours, lines, text, marks, and a plot area with its axes.

A colour is named like a token of `templates/tokens.css`. It is written twice: as an attribute, so that a file stands
alone, and as a class, by which `diagrams.css` gives a drawing the page's colours, light or dark. Models differ in
colour, in the shape of their marks and in the dashes of their lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from types import MappingProxyType


@dataclass(frozen=True)
class Scale:
    """Figures from `low` to `high` between `left` and `left + across`; what lies outside is drawn at the end."""

    low: float
    high: float
    left: float
    across: float

    def __call__(self, value: float) -> float:
        return self.left + self.across * min(max((value - self.low) / ((self.high - self.low) or 1), 0.0), 1.0)

    def steps(self) -> list[float]:
        """Some round figures within, seven at most.

        >>> Scale(0, 0.17, 0, 100).steps()
        [0.0, 0.05, 0.1, 0.15]
        """
        step = round_step((self.high - self.low) / 6)
        return [round(i * step, 12) for i in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def round_step(about: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `about`.

    >>> round_step(0.034), round_step(7)
    (0.05, 10.0)
    """
    if about <= 0:
        return 1.0
    power = floor(log10(about))
    return next(float(f"{digit}e{power}") for digit in (1, 2, 5, 10) if digit * 10**power * (1 + 1e-9) >= about)


COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "ink": "#1f2933",
        "soft": "#52606d",
        "grid": "#e4e7eb",
        "paper": "#ffffff",
        "band": "#d9dee4",
        "band-edge": "#9aa5b1",
        "uploaded": "#b02741",
        "temperature": "#b5820f",
        "calibrated": "#178a96",
    }
)
TITLES: Mapping[str, str] = MappingProxyType(
    {"uploaded": "As uploaded", "temperature": "With a temperature", "calibrated": "To be served"}
)
_DASHES = {"uploaded": "7 4", "temperature": "2 3"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def opening(width: float, height: float, title: str, description: str) -> str:
    """The start of a diagram on paper, with its name and what it shows in a sentence; `</svg>` closes it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" font-family="{_FONT}" font-size="12">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(description)}</desc>",
            rectangle(0, 0, width, height, fill="paper"),
        ]
    )


def paint(*, fill: str | None = None, stroke: str | None = None) -> str:
    parts = [("fill", fill or "none"), ("stroke", stroke)]
    classes = " ".join(f"{kind}-{name}" for kind, name in parts if name in COLOURS)
    return f'class="{classes}" ' + " ".join(f'{kind}="{COLOURS.get(name, name)}"' for kind, name in parts if name)


def rectangle(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str | None = None,
    stroke: str | None = None,
    opacity: float = 1,
    hint: str = "",
) -> str:
    seen = "" if opacity == 1 else f' opacity="{opacity:g}"'
    told = f"><title>{escape(hint)}</title></rect>" if hint else "/>"
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"<rect {box} {paint(fill=fill, stroke=stroke)}{seen}{told}"


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, *, width: float = 1, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {paint(stroke=stroke)} '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def model_line(points: Sequence[str], model: str, *, width: float = 2) -> str:
    dashed = f' stroke-dasharray="{_DASHES[model]}"' if model in _DASHES else ""
    return f'<polyline points="{" ".join(points)}" {paint(stroke=model)} stroke-width="{width:g}"{dashed}/>'


def area(points: Sequence[str], colour: str, *, opacity: float) -> str:
    return f'<polygon points="{" ".join(points)}" {paint(fill=colour)} opacity="{opacity:g}"/>'


def mark(x: float, y: float, size: float, model: str, *, hint: str = "", hollow: bool = False) -> str:
    """A mark in the colour and the shape of a model: diamond, square, or circle."""
    colours = paint(fill="paper" if hollow else model, stroke=model if hollow else "paper")
    told = f"<title>{escape(hint)}</title>" if hint else ""
    if model == "uploaded":
        d = 1.25 * size
        shape = f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f} {-d:.1f} {d:.1f} {-d:.1f} {-d:.1f}z"
        return f'<path d="{shape}" {colours}>{told}</path>'
    if model == "temperature":
        side = 1.8 * size
        return (
            f'<rect x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side:.1f}" height="{side:.1f}" {colours}>'
            f"{told}</rect>"
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {colours}>{told}</circle>'


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: int = 12,
    colour: str = "ink",
    anchor: str = "start",
    bold: bool = False,
    turned: bool = False,
) -> str:
    given = [
        f'font-size="{size}"' if size != 12 else "",
        'font-weight="600"' if bold else "",
        f'text-anchor="{anchor}"' if anchor != "start" else "",
        f'transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else "",
    ]
    attributes = " ".join(one for one in [f'x="{x:.1f}" y="{y:.1f}"', paint(fill=colour), *given] if one)
    return f"<text {attributes}>{escape(content)}</text>"


def legend(models: Sequence[str], x: float, y: float) -> str:
    parts = []
    for model in models:
        parts += [
            model_line([f"{x:.1f},{y:.1f}", f"{x + 22:.1f},{y:.1f}"], model),
            mark(x + 11, y, 4, model),
            text(x + 27, y + 4, TITLES[model]),
        ]
        x += 38 + 7.2 * len(TITLES[model])
    return "\n".join(parts)


@dataclass(frozen=True)
class Plot:
    """The area where shares from 0 to 1 go across, and up to `highest` upwards; both axes have five steps."""

    left: float
    top: float
    across: float
    up: float
    highest: float = 1.0

    @property
    def bottom(self) -> float:
        return self.top + self.up

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * self.across, self.top + (1 - min(y / self.highest, 1.0)) * self.up

    def points(self, xs: Iterable[float], ys: Iterable[float]) -> list[str]:
        return ["{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in zip(xs, ys, strict=True)]

    def axes(self, x_name: str, y_name: str, *, base: float | None = None, y_label: str = ".0f") -> str:
        """Grid, frame, labels and names.

        Args:
            base: the height under which the x axis is labelled, where that is not the bottom of the area.
            y_label: how the percentages of the y axis are written.
        """
        right, parts = self.left + self.across, []
        below = self.bottom if base is None else base
        for i in range(6):
            x, y = self.place(i / 5, i / 5 * self.highest)
            label = f"{20 * i * self.highest:{y_label}} %"
            parts += [
                line(self.left, y, right, y, "grid"),
                line(x, self.top, x, self.bottom, "grid"),
                text(self.left - 7, y + 4, label, size=11, colour="soft", anchor="end"),
                text(x, below + 16, f"{20 * i} %", size=11, colour="soft", anchor="middle"),
            ]
        return "\n".join(
            [
                *parts,
                rectangle(self.left, self.top, self.across, self.up, stroke="band-edge"),
                text(self.left + self.across / 2, below + 36, x_name, anchor="middle"),
                text(self.left - 54, self.top + self.up / 2, y_name, anchor="middle", turned=True),
            ]
        )
