"""How long a wait looks before it sleeps."""

from __future__ import annotations

import math
import os
import select
import types

import pytest
from support import LIMIT

from pactor import Actor, _loop, _waiting, ask
from pactor._waiting import Patience

#: How long it takes to look once.
LOOK = 1e-6
NOT_AT_ALL = pytest.approx(0, abs=1e-9)


def about(seconds):
    return pytest.approx(seconds, abs=3 * LOOK)


class Clock:
    """Stands for `time.monotonic`, and for a `select.poll` to which something comes at some time."""

    def __init__(self):
        self.now = 0.0
        self.comes = 0.0
        self.looked = 0.0
        self.others = 0.0  # for how long they have the processor, where one gives way

    def give_way(self):
        self.now += self.others

    def poll(self, timeout):
        if timeout == 0:
            self.now += LOOK
            self.looked += LOOK
        else:
            self.now = max(self.now, self.comes if timeout is None else min(self.comes, self.now + timeout / 1000))
        return [(0, select.POLLIN)] if self.now >= self.comes else []


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_waiting, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(os, "sched_yield", clock.give_way)
    monkeypatch.setattr(_waiting, "expects_large", False)
    monkeypatch.setattr(_waiting, "busy_until", 0.0)
    return clock


def looks(patience, clock, seconds, timeout=None):
    """Waits for what takes so many seconds to come; returns for how many of them it has looked for it."""
    clock.comes = clock.now + seconds
    clock.looked = 0.0
    events = patience.wait(clock, None if timeout is None else clock.now + timeout)
    assert events if timeout is None else not events
    return clock.looked


def test_what_comes_seldom_is_not_looked_for(clock):
    patience = Patience()
    assert [NOT_AT_ALL] * 5 == [looks(patience, clock, 0.001) for _ in range(5)]


def test_what_comes_soon_is_looked_for_from_the_second_time_on(clock):
    patience = Patience()
    assert [NOT_AT_ALL, *[about(20e-6)] * 4] == [looks(patience, clock, 20e-6) for _ in range(5)]


def test_what_comes_at_the_deadline_did_not_come(clock):
    patience = Patience()
    assert [NOT_AT_ALL] * 3 == [looks(patience, clock, 1, timeout=20e-6) for _ in range(3)]


def test_nobody_looks_beyond_the_deadline(clock):
    patience = Patience()
    looks(patience, clock, 20e-6)
    assert about(30e-6) == looks(patience, clock, 1, timeout=30e-6)


def test_who_has_looked_in_vain_sleeps_until_something_comes_soon_again(clock):
    patience = Patience()
    looked = [looks(patience, clock, seconds) for seconds in (20e-6, 0.01, 0.01, 20e-6, 20e-6)]
    assert [NOT_AT_ALL, about(Patience.SHORT), NOT_AT_ALL, NOT_AT_ALL, about(20e-6)] == looked


def test_what_is_large_is_looked_for_longer(clock):
    patience, seconds = Patience(), 2 * Patience.SHORT
    looked = []
    for large in (True, True, False, True, True):
        _waiting.expects_large = large
        looked.append(looks(patience, clock, seconds))
        assert not _waiting.expects_large
    assert [NOT_AT_ALL, about(seconds), about(Patience.SHORT), NOT_AT_ALL, about(seconds)] == looked


def test_where_others_want_the_processor_all_waits_sleep_for_a_while(clock):
    patience, other, seconds = Patience(), Patience(), 20e-6
    looks(patience, clock, seconds)
    looks(other, clock, seconds)
    clock.others = 2 * _waiting.SLICE
    assert about(LOOK) == looks(patience, clock, seconds)
    looked, until = [], clock.now + _waiting.BUSY
    while clock.now < until - 2 * seconds:
        looked += [looks(patience, clock, seconds), looks(other, clock, seconds)]
    assert {0.0} == set(looked)
    clock.now, clock.others = until, 0.0
    assert [about(seconds)] * 2 == [looks(patience, clock, seconds), looks(other, clock, seconds)]


def test_also_where_something_came_by_a_lane_meanwhile(clock):
    """And the other end knows that it does not look."""
    patience, said = Patience(), []
    lane = types.SimpleNamespace(look=said.append, has_come=[True, False].pop)
    looks(patience, clock, 20e-6)
    clock.others = 2 * _waiting.SLICE
    assert _waiting.BY_LANE == patience.wait(clock, None, lane)
    clock.looked, clock.comes = 0.0, clock.now + 20e-6
    assert patience.wait(clock, None, lane)
    assert (0.0, [True, False]) == (clock.looked, said)


def test_where_others_have_something_to_do_in_between_it_looks(clock, monkeypatch):
    """However often, and for how long in all."""
    monkeypatch.setattr(Patience, "SHORT", 5 * _waiting.SLICE)
    patience = Patience()
    clock.others = _waiting.SLICE / 2
    looked = [looks(patience, clock, 3 * _waiting.SLICE) for _ in range(5)]
    assert [NOT_AT_ALL, *[about(5 * LOOK)] * 4] == looked


class Waits:
    """Notes for each message whether it was awaited behind something large."""

    def on_start(self):
        _loop.LOOK_UP = math.inf  # where it looks up, it receives what it has not waited for
        self.noted = []
        Patience.wait = noting(self.noted, Patience.wait)

    def made(self, item, size):
        was_large = self.noted[0]
        self.noted.clear()
        return bytes(size), was_large


def noting(noted, wait):
    def noting_wait(*args):
        noted.append(_waiting.expects_large)
        return wait(*args)

    return noting_wait


def test_both_ends_know_when_something_large_was_sent_or_received(context, monkeypatch):
    noted = []
    monkeypatch.setattr(Patience, "wait", noting(noted, Patience.wait))
    small, large = 100, 10_000
    with Actor(Waits(), context=context) as actor:
        for asked, replied in [(small, small), (large, large), (small, small), (large, small), (small, large)]:
            ends = []
            for _ in range(20):
                noted.clear()
                there = ask(actor.proxy.made, bytes(asked), replied).result(LIMIT)[1]
                ends.append((noted[0], there))
            assert [(large in (asked, replied),) * 2] * 19 == ends[1:]
