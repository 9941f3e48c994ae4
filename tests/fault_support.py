"""What the rows of the fault table are made of: `fault` adds one, `Program` runs a program that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support import LIMIT, eventually

import pactor

METHODS = ("fork", "forkserver", "spawn")
SOON = 1.0  # seconds: within which a death is noticed, and what has nobody to work for is gone
TESTS = Path(__file__).parent


class Fault(NamedTuple):
    """A row."""

    title: str  #: what is done
    outcome: str  #: what must happen
    provoke: Callable[..., None]  #: called with a context of multiprocessing and a directory; asserts the outcome
    methods: tuple[str, ...]
    limit: float  #: in seconds


FAULTS: list[Fault] = []


def fault(title, outcome, *, methods=METHODS, limit=LIMIT + 10):
    """Adds the function to the table. A row is about all start methods, unless that tells nothing or takes too long."""

    def add(provoke):
        FAULTS.append(Fault(title, outcome, provoke, methods, limit))
        return provoke

    return add


_HEADER = """\
import atexit, functools, multiprocessing, os, signal, sys, threading, time
from pactor import *
from fault_actors import *
from support import *
context = multiprocessing.get_context({method!r})
def say(*words):
    print(*words, flush=True)
"""


class Program:
    """A program in a session and with a runtime directory of its own; none of its processes outlives the block."""

    def __init__(self, context, tmp_path, text, *, how="file", before=(), home=None):
        self.home = home or tmp_path / "home"
        self.home.mkdir(exist_ok=True)
        text = _HEADER.format(method=context.get_start_method()) + textwrap.dedent(text)
        path = tmp_path / "program.py"
        path.write_text(text)
        arguments = {"file": [str(path)], "-c": ["-c", text], "pipe": ["-"], "prompt": ["-qi"]}[how]
        # Under tox pactor is where it was installed, else in the checkout.
        modules = [str(TESTS), str(Path(pactor.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [*before, sys.executable, "-W", "error", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PACTOR_DIR": str(self.home), "PYTHONPATH": os.pathsep.join(modules)},
            start_new_session=True,
        )
        self._began = time.monotonic()
        #: Seconds within which all of its processes can end. To begin takes a fraction of one, and the same processors:
        #: where they have so much else to do that it took more, so may the end.
        self.soon = 0.0
        if how in ("pipe", "prompt"):
            self.process.stdin.write(text if how == "pipe" else f"exec(open({path.name!r}).read())\n")
        self.process.stdin.close()
        self.process.stdin = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in [self.process.pid, *self.living()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def says(self):
        """The next line that it prints."""
        line = self.process.stdout.readline().rstrip("\n")
        if not line and self.process.poll() is not None:
            pytest.fail(f"it ended:\n{self.process.stderr.read()}")
        self.soon = self.soon or max(SOON, time.monotonic() - self._began)
        return line

    def ends(self, code=0):
        """What it prints from here on, on stdout and stderr; it has to end with the code, and all its processes."""
        output, errors = self.process.communicate(timeout=LIMIT)
        assert code == self.process.returncode, f"{errors}\n{output}"
        self.is_gone()
        return output, errors

    def living(self):
        """Its processes, and theirs, whoever is their parent by now."""
        mark = b"PACTOR_DIR=" + os.fsencode(self.home) + b"\0"
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            # A zombie has no environment.
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read():
                    found.append(int(name))
        return found

    def is_gone(self, limit=LIMIT):
        """Waits for the end of all of its processes."""
        eventually(lambda: not self.living(), lambda: f"still there: {[*map(_shown, self.living())]}", limit)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)

    def left(self):
        """What is in its runtime directory, once the next program that uses the same place has begun."""
        subprocess.run(
            [sys.executable, "-c", "import pactor; pactor.Mailbox()"],
            env={**os.environ, "PACTOR_DIR": str(self.home), "PYTHONPATH": str(Path(pactor.__file__).parent.parent)},
            check=True,
        )
        return os.listdir(self.home)


def _shown(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return f"{pid}: {file.read()}"


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def need(*command):
    """Skips where the command fails."""
    result = subprocess.run(command, capture_output=True, text=True) if shutil.which(command[0]) else None
    if result is None or result.returncode:
        pytest.skip(f"only root can do this: {' '.join(command)}")


def files_in(proxy):
    """The payloads that are on their way to an actor."""
    return [name for name in os.listdir(proxy.__channel__.mailbox) if name[0].isdigit()]
