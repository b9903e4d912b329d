"""SVG primitives of the diagrams: lines, text and colours."""

from __future__ import annotations

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
