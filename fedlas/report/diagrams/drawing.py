"""SVG primitives of the diagrams: lines, text, colours, and a plot area with its axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

INK, SOFT, GRID, PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
BAND, BAND_EDGE = "#d9dee4", "#9aa5b1"
COLOURS = {"uploaded": "#d1495b", "temperature": "#b7791f", "calibrated": "#1c7c7d"}
TITLES = {"uploaded": "As uploaded", "temperature": "With a temperature", "calibrated": "Calibrated"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def opening(width: int, height: int, title: str) -> str:
    """The start of a diagram on white paper; `</svg>` closes it."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="{FONT}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        ]
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: int = 13,
    colour: str = INK,
    anchor: str = "start",
    weight: int = 400,
    turn: tuple[float, float] | None = None,
) -> str:
    rotated = f' transform="rotate(-90 {turn[0]:.1f} {turn[1]:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}" xml:space="preserve"{rotated}>{escape(content)}</text>'
    )


@dataclass(frozen=True)
class Plot:
    """The area where shares from 0 to 1 go across, and up to `highest` upwards; both axes have five steps."""

    left: int
    top: int
    across: int
    up: int
    highest: float = 1.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * self.across, self.top + (1 - min(y / self.highest, 1.0)) * self.up

    def points(self, xs: Iterable[float], ys: Iterable[float]) -> list[str]:
        """As the attribute `points` of a line or polygon has them."""
        return ["{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in zip(xs, ys, strict=True)]

    def axes(self, x_name: str, y_name: str, *, below: tuple[int, int], before: int, y_label: str = ".0f") -> str:
        """Grid, frame, labels and names.

        Args:
            below: the heights of the labels and of the name of the x axis; before: where the name of the y axis stands.
            y_label: how the percentages of the y axis are written.
        """
        parts = []
        right, bottom = self.left + self.across, self.top + self.up
        for i in range(6):
            x, y = self.place(i / 5, i / 5 * self.highest)
            parts += [
                line(self.left, y, right, y, GRID),
                line(x, self.top, x, bottom, GRID),
                text(
                    self.left - 9,
                    y + 4,
                    f"{100 * i / 5 * self.highest:{y_label}} %",
                    size=11,
                    colour=SOFT,
                    anchor="end",
                ),
                text(x, below[0], f"{20 * i} %", size=11, colour=SOFT, anchor="middle"),
            ]
        middle = (before, self.top + self.up / 2)
        parts += [
            f'<rect x="{self.left}" y="{self.top}" width="{self.across}" height="{self.up}" fill="none" '
            f'stroke="{BAND_EDGE}"/>',
            text(self.left + self.across / 2, below[1], x_name, size=12, anchor="middle"),
            text(*middle, y_name, size=12, anchor="middle", turn=middle),
        ]
        return "\n".join(parts)
