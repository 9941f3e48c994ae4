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
import multiprocessing, sys
multiprocessing.set_start_method(sys.argv.pop(1))
del sys.argv[0]
__file__ = sys.argv[0]  # for the processes that import it
with open(__file__, encoding="utf-8") as file:
    program = compile(file.read(), __file__, "exec")
exec(program)
"""


def run(script, method, directory, fails=False):
    """Runs a script in a directory; returns what it printed.

    It has to end with 0, to leave nothing behind, and to print nothing on stderr, but where an actor of it ``fails``.
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
    assert 0 == result.returncode, f"{result.stderr}\n{result.stdout}"
    if fails:
        assert result.stderr.startswith("actor '") and "restarted" in result.stderr, result.stderr
    else:
        assert "" == result.stderr, result.stderr
    assert [] == list(home.iterdir())
    return result.stdout
