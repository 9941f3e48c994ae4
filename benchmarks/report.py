"""What became of a run: a table, JSON, plots."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys

from benchmarks.workloads import WORKLOADS

#: Of the systems that the standard library does not hold: the distribution.
_DISTRIBUTIONS = {
    "pykka": "pykka",
    "Thespian": "thespian",
    "xoscar": "xoscar",
    "Ray": "ray",
    "dask": "distributed",
    "pactor": "pactor",
}


def machine(systems):
    """What the figures depend on."""
    versions = {}
    for system in systems:
        try:
            versions[system] = importlib.metadata.version(_DISTRIBUTIONS[system])
        except (KeyError, importlib.metadata.PackageNotFoundError):
            continue
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def rows(results):
    """A row a figure: title, unit, whether more is better, and by system its values or why there are none."""
    for name, cells in results.items():
        workload = WORKLOADS[name]
        keys = dict.fromkeys(key for cell in cells.values() for key in cell["values"]) or {"": None}
        for key in keys:
            title = f"{workload.title}, {key}" if key else workload.title
            yield title, workload, {system: cell["values"].get(key, cell.get("why")) for system, cell in cells.items()}


def table(results, about):
    """The medians, as a table of reStructuredText; below it, why cells are empty."""
    systems = list(next(iter(results.values())))
    lines, why = [["workload", "unit", *systems]], {}
    for title, workload, cells in rows(results):
        lines.append([title, workload.unit, *(_number(cells[system]) for system in systems)])
        for system, reason in cells.items():
            if isinstance(reason, str):
                why.setdefault((system, reason), []).append(title)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = []
    for title, unit, *cells in lines:
        figures = [cell.rjust(width) for cell, width in zip(cells, widths[2:], strict=True)]
        text.append("  ".join([title.ljust(widths[0]), unit.ljust(widths[1]), *figures]))
    text = [rule, text[0], rule, *text[1:], rule, "", f"Medians. {_said(about)}."]
    if why:
        text += ["", *(f"- {system}: {reason} ({', '.join(titles)})" for (system, reason), titles in why.items())]
    return "\n".join(text)


def _said(about):
    versions = "".join(f", {name} {version}" for name, version in about["versions"].items())
    return f"{about['python']}, {about['cpus']} CPUs, {about['system']}{versions}"


def _number(values):
    if not isinstance(values, list):
        return "-"
    value = statistics.median(values)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(results, about, directory):
    """One plot a figure, as SVG: bars of the medians, lines from the least to the most."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("plots need matplotlib: pip install matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pactor"  # the same figures, the same file
    from matplotlib import pyplot

    os.makedirs(directory, exist_ok=True)
    for title, workload, cells in rows(results):
        measured = {system: values for system, values in cells.items() if isinstance(values, list)}
        if not measured:
            continue
        figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.35 * len(measured)), layout="constrained")
        systems = sorted(
            measured, key=lambda system: statistics.median(measured[system]), reverse=workload.more_is_better
        )
        medians = [statistics.median(measured[system]) for system in systems]
        spread = [
            [middle - min(measured[system]) for system, middle in zip(systems, medians, strict=True)],
            [max(measured[system]) - middle for system, middle in zip(systems, medians, strict=True)],
        ]
        colors = ["#c8102e" if system == "pactor" else "#8a9ba8" for system in systems]
        bars = axes.barh(systems, medians, xerr=spread, color=colors, error_kw={"elinewidth": 1})
        axes.bar_label(bars, [f" {_number(measured[system])}" for system in systems], fontsize=8)
        if max(medians) > 30 * min(medians) > 0:
            axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set_title(
            f"{title}: {workload.unit}, {'more' if workload.more_is_better else 'less'} is better", fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
        name = "".join(letter if letter.isalnum() else "-" for letter in title.lower()).replace("--", "-")
        figure.savefig(os.path.join(directory, f"{name}.svg"), metadata={"Date": None})
        pyplot.close(figure)
