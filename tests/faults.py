"""The fault table: what pactor survives. ``python tests/faults.py`` provokes it all and prints what became of it.

A line is a fault: what was done, and what came of it under each start method, with the seconds that it took. What must
happen is in the modules. Arguments go to pytest: ``python tests/faults.py -k SIGKILL``. Ends with 1 if anything FAILED.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Where the rows are, in the order of the table.
MODULES = ("faults_killed", "faults_messages", "faults_load", "faults_system", "faults_others", "faults_later")

_TESTS = Path(__file__).parent


class Table:
    """A plugin for pytest that prints the table, instead of a dot a test."""

    def __init__(self):
        self._rows = {}  # the title and the start method by the id of a test
        self._cells = {}  # of the row that is being tried: what came of it under each start method

    def pytest_collection_finish(self, session):
        for item in session.items:
            self._rows[item.nodeid] = item.callspec.params["fault"].title, item.callspec.params["context"]
        self._last = {title: nodeid for nodeid, (title, _) in self._rows.items()}
        self._width = max(map(len, ["fault", *self._last]))
        self._methods = sorted({method for _, method in self._rows.values()})  # fork first
        self._print("fault", self._methods)

    def pytest_runtest_logreport(self, report):
        title, method = self._rows[report.nodeid]
        result, seconds = self._cells.get(method, ("survived", 0.0))
        if report.failed:
            result = "FAILED"
        elif report.skipped:
            result = "skipped"
        self._cells[method] = result, seconds + report.duration * (report.when == "call")
        if report.when == "teardown" and report.nodeid == self._last[title]:
            cells = [self._cells.get(each) for each in self._methods]
            self._print(title, ["" if cell is None else "{:8} {:4.1f} s".format(*cell) for cell in cells])
            self._cells = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self):
        category, _, _ = yield
        return category, "", ""

    def _print(self, title, cells):
        print(f"{title:{self._width}}", *(f"{cell:15}" for cell in cells), flush=True)


def pytest_configure(config):
    """With ``-p faults``, as below."""
    config.pluginmanager.register(Table())


def main(arguments):
    modules = [str(_TESTS)]
    if importlib.util.find_spec("pactor") is None:  # it is not installed: this is the checkout
        modules.append(str(_TESTS.parent))
    # By -m, as each spawned process imports a main script again, but not a package's __main__.
    options = ["-p", "faults", "-p", "no:cacheprovider", "-qq", "-rs", "--tb=short", "--no-fold-skipped"]
    options += ["-o", "console_output_style=classic", "test_faults.py"]
    command = [sys.executable, "-W", "error", "-m", "pytest", *options, *arguments]
    path = os.pathsep.join([*modules, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(command, cwd=_TESTS, env={**os.environ, "PYTHONPATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
