"""How long a wait looks before it sleeps."""

from __future__ import annotations

import select
import types

import pytest

from pactor import _waiting
from pactor._waiting import Patience


def about(seconds):
    return pytest.approx(seconds, abs=2e-6)


#: How long it takes to look once.
ONCE = about(0)


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


def test_what_comes_seldom_is_looked_for_but_once(clock):
    patience = Patience()
    assert [ONCE] * 5 == [waits(patience, clock, 0.001) for _ in range(5)]


def test_what_comes_soon_is_looked_for_from_the_second_time_on(clock):
    patience = Patience()
    looked = [waits(patience, clock, 20e-6) for _ in range(5)]
    assert [ONCE, *[about(20e-6)] * 4] == looked


def test_what_comes_at_the_deadline_did_not_come(clock):
    patience = Patience()
    clock.poll = lambda _timeout: []
    assert [ONCE] * 3 == [waits(patience, clock, 20e-6) for _ in range(3)]


def test_what_was_found_counts_whatever_was_waited_for_within(clock):
    patience = Patience()
    waits(patience, clock, 20e-6)

    def receive():
        waits(patience, clock, 0.01)
        return True

    assert patience.look(receive)


def test_who_looks_sees_all_there_is_from_time_to_time(clock):
    patience = Patience()
    waits(patience, clock, 20e-6)
    slept = []
    while clock.now < 0.2:
        clock.now += 10e-6
        if not patience.look(lambda: True):
            patience.sleep(clock, None)
            slept.append(clock.now)
    assert 3 == len(slept)


def test_who_has_looked_in_vain_sleeps_until_something_comes_soon_again(clock):
    patience = Patience()
    looked = [waits(patience, clock, seconds) for seconds in (20e-6, 0.01, 0.01, 20e-6, 20e-6)]
    assert [ONCE, about(Patience.SHORT), ONCE, ONCE, about(20e-6)] == looked
