"""Runs the cells: each in a process of its own, under a time limit, the systems of a round one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from benchmarks.workloads import WORKLOADS


def run(systems, workloads, rounds, size, tell):
    """Returns, by workload and system, the values of all rounds, or why there are none.

    ``tell`` is called with a word on each cell.
    """
    results = {workload: {system: {"values": {}} for system in systems} for workload in workloads}
    for number in range(rounds):
        for workload in workloads:
            for system in systems:
                cell = results[workload][system]
                if "why" in cell:  # it will not be otherwise in the next round
                    continue
                began = time.monotonic()
                got = _cell(system, workload, size)
                for key, value in got.get("values", {}).items():
                    cell["values"].setdefault(key, []).append(value)
                if "why" in got:
                    cell["why"] = got["why"]
                outcome = got.get("why") or " ".join(f"{key} {value:,.4g}" for key, value in got["values"].items())
                tell(f"{number + 1}/{rounds} {workload} {system}: {outcome} ({time.monotonic() - began:.1f} s)")
    return results


def _cell(system, workload, size):
    limit = WORKLOADS[workload].limit
    command = [sys.executable, "-m", "benchmarks.cell", system, workload, size]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all that it starts can be killed
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"why": f"took longer than {limit:.0f} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        said = err.strip().splitlines() or ["nothing"]
        return {"why": f"ended with {process.returncode}: {said[-1]}"}
    return json.loads(lines[-1])
