"""``python -m benchmarks``: the command line."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import report
from benchmarks.run import run
from benchmarks.systems import SYSTEMS
from benchmarks.workloads import WORKLOADS

#: What the standard library has, but for ProcessPool, with which it could take more than a minute.
_QUICK = ["pactor", "os.pipe", "mp.Pipe", "mp.Queue", "mp.managers"]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="pactor beside its peers. Without options the quick form: a round of pactor and most of what "
        "the standard library has, in less than a minute.",
    )
    parser.add_argument(
        "--full", action="store_true", help="all systems that are installed, three rounds, more messages"
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, help="how many times each cell is run, one round after the other")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--plots", metavar="DIRECTORY", help="draw a plot a workload there; needs matplotlib")
    parser.add_argument("--from", dest="source", metavar="FILE", help="run nothing: take the figures of --json")
    options = parser.parse_args()
    if options.source:
        with open(options.source) as file:
            found = json.load(file)
    else:
        systems = options.systems or (list(SYSTEMS) if options.full else _QUICK)
        rounds = options.rounds or (3 if options.full else 1)
        found = {
            "about": report.machine(systems),
            "results": run(
                systems,
                options.workloads or list(WORKLOADS),
                rounds,
                "full" if options.full else "quick",
                lambda word: print(word, file=sys.stderr, flush=True),
            ),
        }
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    print(report.table(found["results"], found["about"]))
    if options.plots:
        report.plot(found["results"], found["about"], options.plots)


if __name__ == "__main__":
    main()
