"""Files that are opened and mapped; that no descriptor of theirs is left, `leaves_nothing` finds out."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from support import Interrupt

from pactor import _blocks, _files, _inbox, _wire

SIZE = 100_000


OPENERS = {
    "map": lambda directory, name, fifo: _files.mapped(f"{directory}/lane", os.O_CREAT, SIZE),
    "make an inbox": lambda directory, name, fifo: _inbox.create(f"{directory}/{name}", fifo),
    "make a block": lambda directory, name, fifo: _blocks._Block(f"{directory}/{name}", SIZE),
    "attach a block": lambda directory, name, fifo: _blocks.attach(directory, "1.2.3"),
    "store a payload": lambda directory, name, fifo: _wire._store(directory, f"{directory}/{name}", [b"spam"]),
    "store it by name": lambda directory, name, fifo: _wire._store(directory, f"{directory}/{name}", [b"spam"]),
}


def idle(seconds):
    """Sleeps not, so that a signal is noticed at once."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("what", OPENERS)
def test_an_exception_at_any_moment_leaves_no_descriptor(what, tmp_path, fifo, on_alarm, monkeypatch):
    def interrupt(*_):
        if is_due:
            raise Interrupt

    if what == "store it by name":
        monkeypatch.setattr(_wire, "_NAMELESS", 0)
    is_due, made = False, None
    on_alarm(interrupt)
    block = _blocks._Block(f"{tmp_path}/1.2.3", SIZE)
    for name in map(str, range(1_000)):
        try:
            try:
                is_due = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 100e-6))
                made = OPENERS[what](str(tmp_path), name, fifo)
                idle(0.01)  # at most, as CPython forgets one in some thousand signals until the next one
            finally:
                is_due = False
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            pass
        made = None  # not while one is due: an exception in a __del__ would come to nobody
    del made, block
