"""The reliability curve as an SVG that needs nothing else. It knows bins, and nothing about answers."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from gateway.confidence.measures import Bin

_SIDE, _EDGE = 360, 48


def reliability(parts: Sequence[Bin], title: str) -> str:
    """How often answers were right (upwards) against how sure they were (to the right); larger dots hold more answers."""
    most = max(part.count for part in parts)
    points = [(_x(part.confidence), _y(part.accuracy), 3 + 5 * part.count / most) for part in parts]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"><title>{part.count} answers: sure {part.confidence:.2f}, '
        f"right {part.accuracy:.2f}</title></circle>"
        for (x, y, r), part in zip(points, parts, strict=True)
    )
    marks = "".join(_mark(tenth / 10) for tenth in range(0, 11, 2))
    size = _SIDE + 2 * _EDGE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" height="{size}" '
        'font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{size / 2}" y="24" text-anchor="middle" font-size="14">{escape(title)}</text>{marks}'
        f'<rect x="{_EDGE}" y="{_EDGE}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>'
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#888" stroke-dasharray="5 4"/>'
        f'<polyline points="{line}" fill="none" stroke="#0b62c4" stroke-width="2"/><g fill="#0b62c4">{dots}</g>'
        f'<text x="{size / 2}" y="{size - 8}" text-anchor="middle">confidence</text>'
        f'<text transform="translate(14 {size / 2}) rotate(-90)" text-anchor="middle">share of right answers</text></svg>\n'
    )


def _x(value: float) -> float:
    return _EDGE + value * _SIDE


def _y(value: float) -> float:
    return _EDGE + (1 - value) * _SIDE


def _mark(value: float) -> str:
    return (
        f'<text x="{_x(value)}" y="{_y(0) + 16}" text-anchor="middle">{value:.1f}</text>'
        f'<text x="{_x(0) - 6}" y="{_y(value) + 4}" text-anchor="end">{value:.1f}</text>'
    )
