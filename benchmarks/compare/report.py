"""From the lines of all processes to medians, ratios and tables.

The figure of a contestant is the median over its processes of the time of its best epoch. A ratio is samples a second over those of the
fastest peer: above 1 is faster than all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Any

Line = Mapping[str, Any]
Summary = dict[str, Any]
MIB = 1024 * 1024


def figures(lines: Sequence[Line]) -> dict[str, Any]:
    """The figures of one contestant in one workload; its lines in the order of its processes, the first one with empty caches."""
    first = lines[0]
    epoch = median(line["epoch"] for line in lines)
    warm = [line["first_epoch"] for line in lines[1:]]
    return {
        "samples_per_second": first["samples"] / epoch,
        "microseconds_per_step": 1e6 * epoch / first["steps"],
        "spread": max(line["epoch"] for line in lines) / min(line["epoch"] for line in lines),
        "first_epoch_cold": first["first_epoch"],
        "first_epoch_warm": median(warm) if warm else None,
        "memory": median(line["memory"] for line in lines),
        "processes": len(lines),
    }


def summarise(lines: Iterable[Line], limits: Iterable[Line], own: Iterable[str]) -> Summary:
    """By workload: figures by contestant, the fastest peer, nnc's ratio to it and the limit that bare products set. `own` are nnc's contestants."""
    grouped: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        grouped.setdefault(line["workload"], {}).setdefault(line["contestant"], []).append(line)
    steps: dict[str, list[Line]] = {}
    for limit in limits:
        steps.setdefault(limit["workload"], []).append(limit)
    ours = list(own)
    workloads: dict[str, Any] = {}
    for name, contestants in grouped.items():
        found = {contestant: figures(group) for contestant, group in contestants.items()}
        peers = {contestant: figure["samples_per_second"] for contestant, figure in found.items() if contestant not in ours}
        fastest = max(peers, key=peers.__getitem__) if peers else None
        ratios = {c: found[c]["samples_per_second"] / peers[fastest] for c in ours if c in found} if fastest else {}
        workloads[name] = {"figures": found, "fastest_peer": fastest, "ratios": ratios}
        if name in steps:
            step = median(limit["step"] for limit in steps[name])
            workloads[name]["products"] = {"microseconds_per_step": 1e6 * step, "gigaflops": steps[name][0]["flops"] / step / 1e9}
    means = {}
    for contestant in ours:
        reached = [workload["ratios"][contestant] for workload in workloads.values() if contestant in workload["ratios"]]
        if reached:
            means[contestant] = exp(sum(map(log, reached)) / len(reached))
    return {"workloads": workloads, "geometric_mean": means}


def table(title: str, summary: Summary, shown: Callable[[dict[str, Any]], str]) -> list[str]:
    """One row a contestant, one column a workload."""
    workloads = summary["workloads"]
    names = list(dict.fromkeys(name for workload in workloads.values() for name in workload["figures"]))
    rows = [[name, *(shown(w["figures"][name]) if name in w["figures"] else "" for w in workloads.values())] for name in names]
    return aligned([[title, *workloads], *rows])


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]


def _first(figure: dict[str, Any]) -> str:
    warm = figure["first_epoch_warm"]
    return f"{figure['first_epoch_cold']:.1f}" + ("" if warm is None else f" {warm:.1f}")


def tables(summary: Summary) -> str:
    """Everything that a reader wants to see at the end of a measurement."""
    workloads = summary["workloads"]
    if not workloads:
        return "nothing was measured"
    text = table("us per step", summary, lambda f: f"{f['microseconds_per_step']:,.0f}")
    limits = [w.get("products") for w in workloads.values()]
    if any(limits):
        text += aligned([["products alone", *(f"{p['microseconds_per_step']:,.0f}" if p else "" for p in limits)],
                         ["their GFLOP/s", *(f"{p['gigaflops']:,.0f}" if p else "" for p in limits)]])  # fmt: skip
    ratios = [["samples/s over the fastest peer", *workloads, "geometric mean"]]
    for contestant, mean in summary["geometric_mean"].items():
        ratios.append([contestant, *(f"{w['ratios'][contestant]:.2f}" if contestant in w["ratios"] else "" for w in workloads.values()), f"{mean:.2f}"])
    if len(ratios) > 1:
        ratios.append(["the fastest peer", *(w["fastest_peer"] or "" for w in workloads.values()), ""])
        text += ["", *aligned(ratios)]
    text += ["", *table("first epoch, s: cold, warm", summary, _first)]
    text += ["", *table("memory, MiB", summary, lambda f: f"{f['memory'] / MIB:,.0f}")]
    text += ["", *table("slowest / fastest process", summary, lambda f: f"{f['spread']:.2f}")]
    return "\n".join(text)
