"""The benchmarks: that they run and say what came of them. How fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import LIMIT, ROOT

import pactor


@pytest.fixture
def benchmarks(tmp_path):
    """Runs them, beside the pactor that is tested; returns what they printed."""
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "pykka.py").write_text("raise ImportError('no such thing')")
    path = [str(Path(pactor.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]

    def run(*arguments, module="benchmarks"):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert 0 == result.returncode, result.stderr
        return result.stdout

    return run


def test_each_cell_has_a_figure_or_says_why_not(benchmarks, tmp_path):
    workloads = ["tell", "fan_in", "ask", "pipeline", "gather", "ping_pong", "create_and_stop", "echo_1_kb"]
    workloads += ["echo_100_kb", "ask_seldom", "memory", "imports"]
    systems = ["pactor", "os.pipe", "mp.managers", "pykka"]
    printed = benchmarks("--systems", *systems, "--workloads", *workloads, "--json", "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert workloads == list(found["results"])
    for workload, cells in found["results"].items():
        assert systems == list(cells)
        for system in ("pactor", "os.pipe"):
            if (system, workload) == ("os.pipe", "gather"):
                assert "its replies can't be awaited" == cells[system]["why"]
                continue
            for values in cells[system]["values"].values():
                assert [True] == [value > 0 or workload == "imports" for value in values]
        assert cells["mp.managers"].get("why", "") == (
            "every call waits for its reply"
            if workload in ("tell", "fan_in", "pipeline", "ping_pong")
            else "its replies can't be awaited" * (workload == "gather")
        )
        assert "not installed: no such thing" == cells["pykka"]["why"]
    assert {"p50", "p99"} == {*found["results"]["ask"]["pactor"]["values"]}
    assert "- pykka: not installed: no such thing (" in printed
    assert printed == benchmarks("--from", "figures.json")


def test_rounds_are_kept_and_the_table_shows_their_median(benchmarks, tmp_path):
    benchmarks("--systems", "os.pipe", "--workloads", "create", "--rounds", "3", "--json", "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert 3 == len(found["results"]["create"]["os.pipe"]["values"][""])
    found["results"]["create"]["os.pipe"]["values"][""] = [1, 5, 3]
    (tmp_path / "figures.json").write_text(json.dumps(found))
    (line,) = [line for line in benchmarks("--from", "figures.json").splitlines() if line.startswith("creation")]
    assert ["ms", "3"] == line.split()[-2:]


def test_the_parts_of_a_message_add_up(benchmarks):
    figures, totals, whole = {}, {}, ""
    for line in benchmarks(module="benchmarks.parts").splitlines():
        name, _, figure = line.strip().rpartition(" ")
        if line.startswith(" "):
            figures[whole].append(float(figure))
        else:
            whole = name.strip()
            figures[whole], totals[whole] = [], float(figure)
    titles = ["tell: its sender", "tell: the actor", "ask: its asker", "ask: the actor"]
    shares = ["nothing to do, the actor", "told 1,000 times a second, the actor"]
    shares += ["asked 1,000 times a second, both ends"]
    assert [
        *titles,
        "ask, one at a time, by the clock",
        "echo of 100 KB, by the clock",
        *(f"% of a processor: {what}" for what in shares),
    ] == list(totals)
    for title in titles:
        assert sum(figures[title]) == pytest.approx(totals[title], abs=0.05)
