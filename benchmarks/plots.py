"""Draw plots as small SVG files that can be read on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.measure import Median
from benchmarks.result import Panel, Plot
from benchmarks.sizes import label

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

__all__ = ["draw"]

# Okabe and Ito's colours, which the colour-blind can tell apart; ours is always the first.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D00")
_MARKERS = "osD^vP*X"
_LIMIT_COLOURS = ("#444444", "#999999")
_PANEL_INCHES = (4.6, 3.9)
# Sizes are powers of two; every one of them as a label would not fit.
_LABELS = 6
# Contestants beside each other in a legend below one panel, and how high a line of it is.
_COLUMNS, _LEGEND_INCHES = 3, 0.2
# Where values are so near to each other, powers of ten are too few to read a scale by.
_NEAR = 100

_SETTINGS: dict[Any, Any] = {
    # The same figures give the same file, and no date or name gets into it.
    "svg.hashsalt": "proxyflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.columnspacing": 1.2,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}


def draw(plot: Plot, directory: Path) -> Path:
    """Draw a plot into a directory and return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{plot.name}.svg"
    width, height = _PANEL_INCHES
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = pyplot.subplots(
            1, len(plot.panels), figsize=(width * len(plot.panels), height), squeeze=False
        )
        for panel, axis in zip(plot.panels, axes[0], strict=True):
            (_bars if plot.bars else _curves)(panel, axis)
            axis.set_title(panel.title)
        _legend(figure, axes[0])
        figure.savefig(path, facecolor="white", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return path


def _curves(panel: Panel, axis: Any) -> None:
    """Draw medians over sizes, the middle half of the samples as a band."""
    colours, limit_colours = iter(_COLOURS * 2), iter(_LIMIT_COLOURS * 2)
    markers = iter(_MARKERS * 2)
    sizes: set[float] = set()
    for name, points in panel.curves.items():
        xs = sorted(points)
        sizes.update(xs)
        ys = [points[x] for x in xs]
        if name in panel.limits:
            axis.plot(xs, ys, "--", color=next(limit_colours), linewidth=1.4, label=name)
            continue
        colour = next(colours)
        axis.plot(xs, ys, color=colour, marker=next(markers), markersize=4, label=name)
        low, high = zip(*(_quartiles(y) for y in ys), strict=True)
        axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("size of the object")
    axis.set_ylabel(panel.unit)
    _label_sizes(axis, sorted(sizes))
    _label_values(axis)


def _quartiles(value: float) -> tuple[float, float]:
    return value.quartiles if isinstance(value, Median) else (value, value)


def _label_sizes(axis: Any, sizes: list[float]) -> None:
    step = max(1, -(-len(sizes) // _LABELS))
    axis.xaxis.set_major_locator(FixedLocator(sizes[::step]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: label(round(x))))


def _label_values(axis: Any) -> None:
    low, high = axis.get_ylim()
    parts = (1.0, 2.0, 5.0) if high / low < _NEAR else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(subs=parts))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.9g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _bars(panel: Panel, axis: Any) -> None:
    """Draw medians side by side for each name."""
    names = list(dict.fromkeys(name for bars in panel.curves.values() for name in bars))
    width = 0.8 / len(panel.curves)
    for place, (contestant, bars) in enumerate(panel.curves.items()):
        _bars_of(axis, bars, names, place * width, width, _COLOURS[place], contestant)
    axis.set_xticks([index + 0.4 - width / 2 for index in range(len(names))], names)
    axis.set_ylabel(panel.unit)
    axis.grid(visible=False, axis="x")
    axis.axhline(0, color="#444444", linewidth=0.8)


def _bars_of(
    axis: Any,
    bars: Mapping[Any, float],
    names: list[Any],
    offset: float,
    width: float,
    colour: str,
    contestant: str,
) -> None:
    heights = [bars.get(name, 0.0) for name in names]
    places = [index + offset for index in range(len(names))]
    drawn = axis.bar(places, heights, width, color=colour, label=contestant)
    axis.bar_label(drawn, [f"{height:.0f}" for height in heights], fontsize=7)


def _legend(figure: Any, axes: Any) -> None:
    """Put a legend below each panel, or one below all if they have the same contestants."""
    found = [axis.get_legend_handles_labels() for axis in axes]
    names = [labels for _, labels in found]
    shared = len(axes) > 1 and all(labels == names[0] for labels in names)
    columns = _COLUMNS * len(axes) if shared else _COLUMNS
    rows = -(-max(len(labels) for labels in names) // columns)
    room = (_LEGEND_INCHES * (rows + 1)) / figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, room, 1, 1))
    width = 1 / len(axes)
    for place, (handles, labels) in enumerate(found[:1] if shared else found):
        middle = 0.5 if shared else (place + 0.5) * width
        figure.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(middle, 0),
            ncols=columns,
            frameon=False,
        )
