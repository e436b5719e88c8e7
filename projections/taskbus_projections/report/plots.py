"""Plots: numbers over days as SVG that stands in a page, without scripts and without a word from anywhere else.

Its colours are those of the page, light or dark. The only module that imports pygal. Called by the page.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from taskbus.cli.rendering import visible

if TYPE_CHECKING:
    from taskbus_projections.report.parts import Plot

_SIZE: Final = {"width": 900, "height": 260}
_BARS: Final = 31
"""So many days have bars; more are drawn as lines."""
_LABELS: Final = 12
"""About so many days are named below a plot."""


def drawn(plot: Plot) -> str:
    """A plot as SVG. Raises ImportError where pygal is not installed."""
    pygal: Any = import_module("pygal")
    style: Any = import_module("pygal.style").Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--dim)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--line)",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        colors=tuple(f"var(--c{number})" for number in range(5)),
        font_family="inherit",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        opacity=".9",
    )
    kind: Any = pygal.Bar if len(plot.labels) <= _BARS else pygal.Line
    chart: Any = kind(
        style=style,
        js=[],
        disable_xml_declaration=True,
        show_legend=len(plot.series) > 1,
        show_dots=False,
        legend_at_bottom=True,
        legend_box_size=10,
        margin=8,
        max_scale=5,
        min_scale=2,
        x_labels_major_every=max(1, -(-len(plot.labels) // _LABELS)),
        show_minor_x_labels=False,
        truncate_label=-1,
        value_formatter=_dollars if plot.unit == "dollars" else _count,
        **_SIZE,
    )
    # Else a random one, and no two pages alike.
    chart.uuid = plot.name
    chart.title = None
    chart.x_labels = [visible(label) for label in plot.labels]
    for name, values in plot.series:
        chart.add(visible(name), values)
    chart.add_xml_filter(_plain)
    svg: str = chart.render()
    return svg.replace("<title>Pygal</title>", "", 1)


def _dollars(value: float) -> str:
    return f"${value:,.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _plain(root: Any) -> Any:
    """Without scripts and comments."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.rpartition("}")[2] == "script":
                parent.remove(child)
    return root
