"""A bar chart as SVG, one for light and one for dark pages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

_THEMES = {
    "light": {"text": "#1f2328", "muted": "#59636e", "ours": "#0969da", "others": "#b6c2cf"},
    "dark": {"text": "#f0f6fc", "muted": "#9198a1", "ours": "#4493f8", "others": "#3d444d"},
}
_WIDTH, _LABEL, _BAR, _GAP, _TOP = 720, 120, 24, 10, 48


def draw(folder: Path, name: str, title: str, values: Mapping[str, float], ours: str) -> None:
    """Write `<name>-light.svg` and `<name>-dark.svg`: a bar per value, ours in colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme in _THEMES:
        (folder / f"{name}-{theme}.svg").write_text(_svg(theme, title, values, ours))


def _svg(theme: str, title: str, values: Mapping[str, float], ours: str) -> str:
    colours = _THEMES[theme]
    height = _TOP + len(values) * (_BAR + _GAP)
    most = max(values.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="0" y="20" font-weight="600" fill="{colours["text"]}">{escape(title)}</text>',
    ]
    for i, (label, value) in enumerate(values.items()):
        y = _TOP + i * (_BAR + _GAP)
        width = max(2, round(value / most * (_WIDTH - _LABEL - 90)))
        colour = colours["ours" if label == ours else "others"]
        weight = 600 if label == ours else 400
        parts += [
            f'<text x="0" y="{y + 17}" font-weight="{weight}" fill="{colours["text"]}">'
            f"{escape(label)}</text>",
            f'<rect x="{_LABEL}" y="{y}" width="{width}" height="{_BAR}" rx="3" fill="{colour}"/>',
            f'<text x="{_LABEL + width + 8}" y="{y + 17}" fill="{colours["muted"]}">'
            f"{value:,.0f}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])
