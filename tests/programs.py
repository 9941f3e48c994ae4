"""Runs the programs of the README and of the examples, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pactor

ROOT = Path(__file__).parent.parent
METHODS = ("fork", "forkserver", "spawn")
LIMIT = 100  # seconds; a tenth of that is enough even for a busy machine

#: Executes a script as `python script.py` does, but with another start method than the default.
_RUN = """\
import multiprocessing, runpy, sys
multiprocessing.set_start_method(sys.argv.pop(1))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def run(script, method, directory):
    """Runs a script in a directory; returns what it printed.

    It has to end with 0, to print nothing on stderr, and to leave nothing behind.
    """
    home = directory / "home"
    home.mkdir()
    # Under tox this is where pactor is installed, else the checkout.
    path = [str(Path(pactor.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUN, method, script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PACTOR_DIR": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ("", 0) == (result.stderr, result.returncode), f"{result.stderr}\n{result.stdout}"
    assert [] == list(home.iterdir())
    return result.stdout
