"""One cell: ``python -m benchmarks.cell SYSTEM WORKLOAD quick|full`` prints what it measured, as JSON."""

from __future__ import annotations

import json
import sys

from benchmarks.systems import system as system_of
from benchmarks.workloads import WORKLOADS


def main(name, workload, size):
    try:
        cls = system_of(name)
    except ImportError as error:
        return {"why": f"not installed: {error}"}
    if workload in cls.UNABLE:
        return {"why": cls.UNABLE[workload]}
    if workload == "gather" and cls.gather_many is None:
        return {"why": "its replies can't be awaited"}
    system = None if workload == "imports" else cls()
    try:
        return {"values": WORKLOADS[workload].run(system or cls, size == "full")}
    finally:
        if system:
            system.close()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])), flush=True)
