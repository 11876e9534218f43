"""Plots of the figures: one answer each, said in the title, readable at the width of a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from harness.figures import show

__all__ = ["draw"]

Tables: TypeAlias = Mapping[str, Mapping[str, Any]]

#: Ours, a second series of ours, everything else, and targets.
BLUE, TEAL, GREY, RED = "#1f5fbf", "#3aa99f", "#9aa3ad", "#e4572e"
INK, FAINT = "#22272e", "#5b6570"

#: Behind labels that may lie on a line.
_PLATE = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#c8ced5",
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": INK,
    "axes.grid": False,
    "savefig.facecolor": "white",
    "svg.hashsalt": "onceflow",
}


def draw(tables: Tables, directory: Path) -> dict[str, Path]:
    """Draws every plot whose tables are there; gives the files by name."""
    directory.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    with mpl.rc_context(_STYLE):
        for name, (needed, plot) in _PLOTS.items():
            if not all(table in tables and tables[table]["rows"] for table in needed):
                continue
            figure = plot(tables)
            made[name] = directory / f"{name}.png"
            figure.savefig(made[name], dpi=150, metadata={"Software": None})
            plt.close(figure)
    return made


def _values(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row["values"] for row in table["rows"]]


def _figure(title: str, subtitle: str, *, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(1, columns, figsize=(8.4, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0.01, 0.01, 0.97, 1 - 0.82 / height - 0.01))
    # A bold title of 64 characters fills the width at 14 points.
    figure.text(0.018, 1 - 0.16 / height, title, fontsize=min(14, 14 * 64 / len(title)), fontweight="bold", va="top")
    figure.text(0.018, 1 - 0.47 / height, subtitle, fontsize=10.5, color=FAINT, va="top")
    return figure, axes


def _as_often(ratio: float) -> str:
    """For a title."""
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def _in(unit: str) -> FuncFormatter:
    return FuncFormatter(lambda value, _: show(value, unit) if value else "0")


def _log(axes: Axes, unit: str, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_formatter(_in(unit))
    axes.xaxis.set_minor_locator(NullLocator())


def _names_on_the_left(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _hot_path(tables: Tables) -> Figure:
    rows = _values(tables["hot_path"])
    smallest, largest = rows[0], rows[-1]
    title = f"{show(smallest['table'], 'rate').replace('M/s', 'million')} keyed updates a second on one core"
    subtitle = (
        f"Sum and count by int64 key: a onceflow table reaches {show(smallest['share'], 'share')} of a bare array loop "
        f"at {smallest['keys']} keys"
        + (f", {show(largest['share'], 'share')} at {largest['keys']}" if largest["keys"] != smallest["keys"] else "")
    )
    figure, axes = _figure(title, subtitle, height=1.8 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        ours, bare = row["table"], row["bare loop"]
        axes.plot([ours, bare], [place, place], color="#dfe4ea", linewidth=4, zorder=1, solid_capstyle="round")
        axes.scatter([bare], [place], s=70, color=GREY, zorder=2)
        axes.scatter([ours], [place], s=90, color=BLUE, zorder=3)
        text = f"{show(ours, 'rate')}  ({show(row['share'], 'share')})"
        left = ours <= bare
        axes.annotate(
            text,
            (ours, place),
            xytext=(-10 if left else 10, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=BLUE,
            fontweight="bold",
        )
        axes.annotate(
            show(bare, "rate") + ("  bare array loop" if place == 0 else ""),
            (bare, place),
            xytext=(10 if left else -10, 0),
            textcoords="offset points",
            ha="left" if left else "right",
            va="center",
            color=FAINT,
        )
    _names_on_the_left(axes, [f"{row['keys']} keys, {row['distribution']}" for row in rows])
    rates = [row[name] for row in rows for name in ("table", "bare loop")]
    _log(axes, "rate", min(rates) / 6, max(rates) * 3.5)
    axes.set_xlabel("records a second (log scale)")
    return figure


def _by_keys(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["keys"], []).append(row)
    return groups


def _checkpoint_frequency(tables: Tables) -> Figure:
    table = tables["checkpoint_frequency"]
    groups = _by_keys(_values(table))
    intervals = list(dict.fromkeys(row["interval"] for row in _values(table)))
    at = "100 ms" if "100 ms" in intervals else intervals[-1]
    shown = [row for row in _values(table) if row["interval"] == at][:2]
    said = ", ".join(f"{show(row['kept'], 'share')} at {row['keys']}" for row in shown)
    title = f"Checkpoints every {at} keep {said} keys"
    subtitle = "Percent of the throughput without checkpoints; at full speed on random keys nearly all change each time"
    figure, found = _figure(title, subtitle, height=3.7, columns=len(groups))
    goals = {
        (row["values"]["keys"], row["values"]["interval"]): goal["bound"] * 100
        for row in table["rows"]
        for goal in row["goals"]
    }
    for axes, (keys, rows) in zip(np.atleast_1d(found), groups.items(), strict=True):
        places = range(len(rows))
        shares = [row["kept"] * 100 for row in rows]
        axes.bar(places, shares, width=0.62, color=BLUE)
        for place, share, row in zip(places, shares, rows, strict=True):
            inside = share > 14
            axes.annotate(
                f"{share:.0f}",
                (place, share),
                xytext=(0, -5 if inside else 5),
                textcoords="offset points",
                ha="center",
                va="top" if inside else "bottom",
                color="white" if inside else BLUE,
                fontweight="bold",
                fontsize=10.5,
            )
            goal = goals.get((keys, row["interval"]))
            if goal is not None:
                axes.plot([place - 0.38, place + 0.38], [goal] * 2, color=RED, linewidth=2)
        axes.set_title(f"{keys} keys", loc="left", fontsize=11, color=FAINT)
        axes.set_xticks(places, [row["interval"] for row in rows], fontsize=9.5)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, max(len(rows), 3) - 0.4)
        axes.set_ylim(0, 105)
        axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    axes.plot([], [], color=RED, linewidth=2, label="target")
    figure.legend(frameon=False, loc="outside lower right", labelcolor=FAINT)
    figure.supxlabel("a checkpoint every", fontsize=11, color=FAINT)
    return figure


def _pauses(tables: Tables) -> Figure:
    table = tables["pauses"]
    rows = _values(table)
    goals = [goal["bound"] for row in table["rows"] for goal in row["goals"]]
    worst = max(row["pause p99"] for row in rows if row["interval"] == "100 ms")
    title = f"Checkpoints every 100 ms pause the work for {show(worst, 'seconds')} at most (p99)"
    figure, axes = _figure(
        title, "The longest time for which a checkpoint holds the working thread", height=2.2 + 0.38 * len(rows)
    )
    for place, row in enumerate(rows):
        p50, p99, without = (max(row[name], 1e-6) for name in ("pause p50", "pause p99", "without checkpoints p99"))
        axes.plot([p50, p99], [place, place], color=BLUE, linewidth=4, alpha=0.35, solid_capstyle="round", zorder=1)
        axes.scatter([p50], [place], s=55, facecolor="white", edgecolor=BLUE, linewidth=2, zorder=3)
        axes.scatter([p99], [place], s=75, color=BLUE, zorder=3)
        axes.scatter([without], [place], s=110, marker="|", color=GREY, linewidth=2, zorder=2)
        axes.annotate(
            show(row["pause p99"], "seconds"),
            (max(p99, without), place),
            xytext=(11, 0),
            textcoords="offset points",
            va="center",
            bbox=_PLATE,
            color=BLUE,
            fontweight="bold",
        )
    for bound in set(goals):
        axes.axvline(bound, color=RED, linewidth=1.3, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            f"target {show(bound, 'seconds')}",
            (bound, -0.6),
            xytext=(4, 3),
            textcoords="offset points",
            color=RED,
            fontsize=9.5,
            annotation_clip=False,
        )
    axes.scatter([], [], s=55, facecolor="white", edgecolor=BLUE, linewidth=2, label="median")
    axes.scatter([], [], s=75, color=BLUE, label="p99")
    axes.scatter([], [], s=110, marker="|", color=GREY, linewidth=2, label="p99 without checkpoints")
    _names_on_the_left(axes, [f"{row['keys']} keys, every {row['interval']}" for row in rows])
    low = min(min(max(row["pause p50"], 1e-6), max(row["without checkpoints p99"], 1e-6)) for row in rows)
    high = max(max(row["pause p99"], row["without checkpoints p99"]) for row in rows)
    _log(axes, "seconds", min(low / 2, 5e-4), max(high, *goals, 0) * 4)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, labelcolor=FAINT)
    return figure


def _restore(tables: Tables) -> Figure:
    sizes, lengths = _values(tables["restore_size"]), _values(tables["restore_length"])
    largest = sizes[-1]
    title = f"{largest['entries']} entries recover in {show(largest['recovery'], 'seconds')}"
    longest = lengths[-1]
    subtitle = (
        f"The time grows with the entries; after {show(longest['checkpoints before'], 'count')} checkpoints it is "
        f"{longest['of the shortest run']:.2f} times that after {show(lengths[0]['checkpoints before'], 'count')}"
    )
    figure, (left, right) = _figure(title, subtitle, height=3.6, columns=2)
    entries = np.array([row["recovery"] * row["entries a second"] for row in sizes])
    seconds = np.array([row["recovery"] for row in sizes])
    left.plot([0, entries[-1]], [0, seconds[-1]], color="#dfe4ea", linewidth=3, zorder=1)
    left.scatter(entries, seconds, s=80, color=BLUE, zorder=2)
    for row, count, took in zip(sizes, entries, seconds, strict=True):
        left.annotate(
            f"{row['entries']}: {show(took, 'seconds')}",
            (count, took),
            xytext=(-8, 6) if count == entries[-1] else (10, -4),
            textcoords="offset points",
            ha="right" if count == entries[-1] else "left",
            va="bottom" if count == entries[-1] else "center",
            color=BLUE,
            fontweight="bold",
        )
    speed = f"{show(largest['entries a second'], 'rate').removesuffix('/s')} entries a second"
    left.set_title(speed, loc="left", fontsize=11, color=FAINT)
    right.set_title("by the length of the run before", loc="left", fontsize=11, color=FAINT)
    left.set_xlim(0, entries[-1] * 1.12)
    left.set_ylim(0, max(seconds) * 1.25)
    left.set_xticks(entries, [row["entries"] for row in sizes])
    left.yaxis.set_major_formatter(_in("seconds"))
    left.set_xlabel("entries")
    left.set_ylabel("recovery")
    places = range(len(lengths))
    right.bar(places, [row["recovery"] for row in lengths], width=0.55, color=BLUE)
    for place, row in enumerate(lengths):
        right.annotate(
            show(row["recovery"], "seconds"),
            (place, row["recovery"]),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=BLUE,
            fontweight="bold",
        )
    right.set_xticks(places, [show(row["checkpoints before"], "count") for row in lengths])
    right.set_ylim(0, max(row["recovery"] for row in lengths) * 1.25)
    right.yaxis.set_major_formatter(_in("seconds"))
    right.set_xlabel(f"checkpoints before, {lengths[0]['entries']} entries")
    return figure


def _bars(axes: Axes, names: list[str], rates: list[float], texts: list[str], ours: list[bool]) -> None:
    """Horizontal bars with their figures behind them; ours in blue."""
    axes.barh(range(len(names)), rates, height=0.62, color=[BLUE if mine else GREY for mine in ours])
    for place, (rate, text, mine) in enumerate(zip(rates, texts, ours, strict=True)):
        axes.annotate(
            text,
            (rate, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=BLUE if mine else FAINT,
            fontweight="bold" if mine else "normal",
        )
    _names_on_the_left(axes, names)
    axes.set_xlim(0, max(rates) * 1.24)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])


def _alternatives(tables: Tables) -> Figure:
    rows = _values(tables["alternatives"])
    intervals = list(dict.fromkeys(row["interval"] for row in rows))
    first = [row for row in rows if row["interval"] == intervals[0]]
    best = min((row for row in first if "onceflow is faster by" in row), key=lambda row: row["onceflow is faster by"])
    title = f"{_as_often(best['onceflow is faster by'])} as fast as the fastest alternative, {best['what']}"
    subtitle = "Sum and count over 100 k keys, records a second on one machine, durable at the same interval"
    figure, found = _figure(title, subtitle, height=3.3, columns=len(intervals))
    for axes, interval in zip(np.atleast_1d(found), intervals, strict=True):
        some = [row for row in rows if row["interval"] == interval]
        texts = [
            show(row["rate"], "rate")
            + (f"  (1/{row['onceflow is faster by']:.0f})" if "onceflow is faster by" in row else "")
            for row in some
        ]
        names = [row["what"] for row in some]
        _bars(axes, names, [row["rate"] for row in some], texts, [name == "onceflow" for name in names])
        axes.set_title(f"durable every {interval}", loc="left", fontsize=11, color=FAINT)
    return figure


def _record_at_a_time(tables: Tables) -> Figure:
    rows = _values(tables["record_at_a_time"])
    columns = [row for row in rows if row["records"] == "columns"]
    others = [row for row in rows if row["records"] != "columns"]
    others.sort(key=lambda row: -row["rate"])
    fastest = max(columns, key=lambda row: row["rate"])
    title = f"{show(fastest['rate'], 'rate').replace('M/s', 'million records a second')} in columns, exactly once"
    subtitle = "A keyed count over 100 k keys through a whole dataflow, a checkpoint each second"
    figure, axes = _figure(title, subtitle, height=1.3 + 0.37 * len(rows))
    shown = sorted(columns, key=lambda row: -row["rate"]) + others
    names = [f"{row['records']}: {row['what']}" for row in shown]
    rates = [row["rate"] for row in shown]
    ours = ["pickle" not in row["what"] for row in shown]
    places = range(len(shown))
    axes.hlines(places, min(rates) / 3, rates, color=["#c9d8ef" if mine else "#e3e7eb" for mine in ours], linewidth=5)
    axes.scatter(rates, places, s=85, color=[BLUE if mine else GREY for mine in ours], zorder=2)
    goals = {
        (row["values"]["records"], row["values"]["what"]): row["goals"] for row in tables["record_at_a_time"]["rows"]
    }
    for place, (row, mine) in enumerate(zip(shown, ours, strict=True)):
        bounds = [goal["bound"] for goal in goals[row["records"], row["what"]]]
        # A label that would lie on its target goes behind it.
        close = any(row["rate"] < bound < row["rate"] * 2 for bound in bounds)
        for bound in bounds:
            axes.plot([bound] * 2, [place - 0.3, place + 0.3], color=RED, linewidth=1.6)
        axes.annotate(
            show(row["rate"], "rate"),
            (max([row["rate"], *bounds]) if close else row["rate"], place),
            xytext=(11, 0),
            textcoords="offset points",
            va="center",
            color=BLUE if mine else FAINT,
            fontweight="bold" if mine else "normal",
        )
    axes.plot([], [], color=RED, linewidth=1.6, label="target")
    axes.legend(frameon=False, loc="lower right", labelcolor=FAINT)
    _names_on_the_left(axes, names)
    _log(axes, "rate", min(rates) / 1.6, max(rates) * 2.6)
    axes.set_xlabel("records a second (log scale)")
    return figure


def _guarantees(tables: Tables) -> Figure:
    rows = _values(tables["guarantees"])
    files = [row for row in rows if row["guarantee"] == "exactly_once" and "transactional" in row["sink"]]
    title = f"Exactly once into files runs at {show(files[0]['of at_least_once'], 'share')} of at least once"
    subtitle = "The same flow into a CSV file, records a second, a checkpoint every 100 ms"
    figure, axes = _figure(title, subtitle, height=1.2 + 0.42 * len(rows))
    names = [f"{row['guarantee']}: {row['sink']}" for row in rows]
    texts = [f"{show(row['rate'], 'rate')}  ({show(row['of at_least_once'], 'share')})" for row in rows]
    _bars(axes, names, [row["rate"] for row in rows], texts, [row["guarantee"] == "exactly_once" for row in rows])
    return figure


def _file_size(tables: Tables) -> Figure:
    table = tables["long_run"]
    row = _values(table)[0]
    series = {name: np.asarray(values) for name, values in table["series"].items()}
    minutes = series["seconds"] / 60
    title = f"After {row['time'] / 60:.0f} minutes the file is {_as_often(row['file / live state'])} the live state"
    subtitle = (
        f"{row['keys']} keys, a checkpoint every {row['interval']}: {show(row['checkpoints'], 'count')} checkpoints, "
        f"{show(row['written'], 'bytes')} written"
    )
    figure, axes = _figure(title, subtitle, height=3.8)
    bounds = {goal["column"]: goal["bound"] for goal in table["rows"][0]["goals"]}
    lines = {
        f"bound: {bounds['file / live state']:.0f} times the live state": (
            series["live state"] * bounds["file / live state"],
            RED,
            (0, (4, 3)),
        ),
        "file": (series["file"], BLUE, "-"),
        "bytes it must hold": (series["must hold"], TEAL, "-"),
        "live state": (series["live state"], GREY, "-"),
    }
    for name, (values, colour, style) in lines.items():
        axes.plot(minutes, values / 1e6, color=colour, linewidth=2.2 if style == "-" else 1.4, linestyle=style)
        axes.annotate(
            name,
            (minutes[-1], values[-1] / 1e6),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
    axes.set_ylim(0, None)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= minutes[-1]])
    axes.set_xlim(0, minutes[-1] * 1.42)
    axes.set_xlabel("minutes")
    axes.set_ylabel("MB")
    return figure


def _log_transactions(tables: Tables) -> Figure:
    costs = [row for row in _values(tables["log_transactions"]) if row["record"] == "100 B"]
    times = [row for row in _values(tables["log_delivery"]) if row["asked"] == 20_000]
    names = list(dict.fromkeys(row["what"] for row in costs))
    kept = next(row["kept"] for row in costs if row["what"] == names[0] and row["commit every"] == "100 ms")
    title = f"Transactions every 100 ms keep {show(kept, 'share')} of the rate without"
    subtitle = "Records of 100 B. Left: throughput kept. Right: produce to read_committed delivery, median to p99"
    figure, (left, right) = _figure(title, subtitle, height=4.0, columns=2)
    colours = dict(zip(names, (BLUE, TEAL, GREY), strict=False))
    _kept_shares(left, costs, colours)
    _delivery_times(right, times, colours)
    for name, colour in colours.items():
        left.plot([], [], color=colour, linewidth=6, label=name)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, labelcolor=FAINT)
    return figure


def _kept_shares(axes: Axes, rows: list[dict[str, Any]], colours: dict[str, str]) -> None:
    intervals = _commit_intervals(axes, rows)
    width = 0.8 / len(colours)
    for row in rows:
        side = list(colours).index(row["what"]) - (len(colours) - 1) / 2
        place, share = intervals.index(row["commit every"]) + side * width, row["kept"] * 100
        axes.bar(place, share, width=width * 0.92, color=colours[row["what"]])
        text = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": INK}
        axes.annotate(f"{share:.0f}", (place, share), xytext=(0, 3), **text)
    axes.axhline(100, color="#c8ced5", linewidth=1, zorder=0)
    axes.set_ylim(0, max(100.0, *(row["kept"] * 100 for row in rows)) * 1.15)
    axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])


def _delivery_times(axes: Axes, rows: list[dict[str, Any]], colours: dict[str, str]) -> None:
    intervals = _commit_intervals(axes, rows)
    for row in rows:
        side = list(colours).index(row["what"]) - (len(colours) - 1) / 2
        place, colour = intervals.index(row["commit every"]) + side * 0.2, colours[row["what"]]
        axes.plot([place] * 2, [row["p50"], row["p99"]], color=colour, linewidth=4, alpha=0.4, solid_capstyle="round")
        axes.scatter([place], [row["p50"]], s=45, facecolor="white", edgecolor=colour, linewidth=2, zorder=3)
        axes.scatter([place], [row["p99"]], s=55, color=colour, zorder=3)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_in("seconds"))
    axes.yaxis.set_minor_locator(NullLocator())


def _commit_intervals(axes: Axes, rows: list[dict[str, Any]]) -> list[str]:
    intervals = list(dict.fromkeys(row["commit every"] for row in rows))
    axes.set_xticks(range(len(intervals)), intervals)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("a commit every")
    return intervals


#: name → the tables that it needs, and how it is drawn.
_PLOTS: dict[str, tuple[tuple[str, ...], Callable[[Tables], Figure]]] = {
    "hot_path": (("hot_path",), _hot_path),
    "checkpoint_frequency": (("checkpoint_frequency",), _checkpoint_frequency),
    "pauses": (("pauses",), _pauses),
    "restore": (("restore_size", "restore_length"), _restore),
    "alternatives": (("alternatives",), _alternatives),
    "record_at_a_time": (("record_at_a_time",), _record_at_a_time),
    "guarantees": (("guarantees",), _guarantees),
    "file_size": (("long_run",), _file_size),
    "log_transactions": (("log_transactions", "log_delivery"), _log_transactions),
}
