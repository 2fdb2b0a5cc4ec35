"""Drawings of a measurement, by matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def installed() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _figure(columns: int, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nnc"  # equal figures, equal files
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(5 * columns + 1, height), squeeze=False, layout="constrained")
    return figure, axes[0]


def _write(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def ratios(summary: Mapping[str, Any], path: Path) -> None:
    """Each contestant's samples a second over those of the fastest peer, one line a workload."""
    workloads = {name: w for name, w in summary["workloads"].items() if w["fastest_peer"]}
    figure, (axes,) = _figure(1, 1.5 + 0.45 * len(workloads))
    names = list(dict.fromkeys(name for w in workloads.values() for name in w["figures"]))
    for name in names:
        rows = [(i, w) for i, w in enumerate(workloads.values()) if name in w["figures"]]
        best = [w["figures"][w["fastest_peer"]]["samples_per_second"] for _, w in rows]
        shares = [w["figures"][name]["samples_per_second"] / b for (_, w), b in zip(rows, best, strict=True)]
        ours = name in summary["geometric_mean"]
        axes.plot(shares, [i for i, _ in rows], "D" if ours else "o", label=name, markersize=9 if ours else 5, zorder=3 if ours else 2)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(workloads)), list(workloads))
    axes.invert_yaxis()
    axes.set_xlabel("samples a second, over those of the fastest peer")
    figure.legend(loc="outside right upper")
    _write(figure, path)


def growth(series: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Time per floating-point operation as each quantity grows, one panel a quantity; then the time to the first step, where cold ones were measured."""
    first = [points for points in series.values() if any("first_cold" in point["numpy"] for point in points)]
    figure, panels = _figure(len(series) + len(first), 4)
    for axes, (quantity, points) in zip(panels, series.items(), strict=False):
        for name in ("numpy", "fast", "products"):
            _line(axes, points, name, "picoseconds_per_flop")
        axes.set_xlabel(quantity)
        _decimal(axes)
    for axes, points in zip(panels[len(series) :], first, strict=True):
        for name in ("numpy", "fast"):
            _line(axes, points, name, "first")
        _line(axes, points, "fast", "first_cold", marker="^", linestyle=":", label="fast engine, nothing compiled yet")
        axes.set_xlabel("depth")
        axes.set_ylabel("seconds from start to the end of the first step")
        _decimal(axes)
        axes.legend()
    panels[0].set_ylabel("picoseconds per floating-point operation")
    panels[0].legend()
    _write(figure, path)


_STYLES = {
    "numpy": {"label": "NumPy's engine", "color": "C0", "marker": "s"},
    "fast": {"label": "fast engine", "color": "C1", "marker": "o"},
    "products": {"label": "bare products", "color": "black", "linestyle": "--"},
}


def _line(axes: Any, points: Sequence[Mapping[str, Any]], name: str, figure: str, **style: str) -> None:
    """A figure of one contestant, at the points that have it."""
    shown = [(point["value"], point[name][figure]) for point in points if name in point]
    if shown:
        axes.loglog(*zip(*shown, strict=True), base=2, markersize=5, **(_STYLES[name] | style))


def _decimal(axes: Any) -> None:
    axes.set_yscale("log", base=10)
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="both", linewidth=0.3)
