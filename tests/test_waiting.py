"""How long a wait looks before it sleeps."""

from __future__ import annotations

import select
import types

import pytest

from pactor import _waiting
from pactor._waiting import Patience


class Clock:
    """Stands for `time.monotonic`, and for `select.poll`, where so many seconds pass."""

    def __init__(self):
        self.now = 0.0
        self.slept = 0.0

    def poll(self, _timeout):
        self.now += self.slept
        return [(0, select.POLLIN)]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_waiting, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def waits(patience, clock, seconds):
    """Waits for what takes so many seconds to come; returns how many of them it has looked for it."""
    came = clock.now + seconds

    def look():
        clock.now += 1e-6
        return clock.now >= came

    began = clock.now
    found = patience.look(look)
    looked = clock.now - began
    if not found:
        clock.slept = max(0.0, came - clock.now)
        patience.sleep(clock, None)
    return looked


def test_what_comes_seldom_is_never_looked_for(clock):
    patience = Patience()
    assert [0] * 5 == [waits(patience, clock, 0.001) for _ in range(5)]


def test_what_comes_soon_is_looked_for_from_the_second_time_on(clock):
    patience = Patience()
    looked = [waits(patience, clock, 20e-6) for _ in range(5)]
    assert [0, *[pytest.approx(20e-6, abs=2e-6)] * 4] == looked


def test_who_has_looked_in_vain_sleeps_until_something_comes_soon_again(clock):
    patience = Patience()
    looked = [waits(patience, clock, seconds) for seconds in (20e-6, 1.0, 1.0, 20e-6, 20e-6)]
    assert [0, pytest.approx(Patience.SHORT, abs=2e-6), 0, 0, pytest.approx(20e-6, abs=2e-6)] == looked
