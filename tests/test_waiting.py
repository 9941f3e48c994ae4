"""How long a wait looks before it sleeps."""

from __future__ import annotations

import resource
import select
import types

import pytest
from support import LIMIT

from pactor import Actor, _waiting, ask
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
    return clock


def looks(patience, clock, seconds, timeout=None, large=False):
    """Waits for what takes so many seconds to come; returns for how many of them it has looked for it."""
    clock.comes = clock.now + seconds
    clock.looked = 0.0
    events = patience.wait(clock, None if timeout is None else clock.now + timeout, behind_large=large)
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


def test_behind_something_large_it_looks_longer(clock):
    patience, seconds = Patience(), 2 * Patience.SHORT
    looked = [looks(patience, clock, seconds, large=large) for large in (True, True, False, True, True)]
    assert [NOT_AT_ALL, about(seconds), about(Patience.SHORT), NOT_AT_ALL, about(seconds)] == looked


class LooksBehindLarge:
    """Looks as long as it takes behind what is large; else not at all."""

    def on_start(self):
        look_behind_large()

    def echo(self, item):
        return item, sleeps()


def look_behind_large():
    Patience.SHORT, Patience.SHORT_BEHIND_LARGE = 0.0, LIMIT


def sleeps():
    """How often this process has slept."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


@pytest.mark.parametrize(("size", "many_sleep"), [(10_000, False), (100, True)])
def test_who_sends_and_receives_what_is_large_looks_longer(context, monkeypatch, size, many_sleep):
    monkeypatch.setattr(Patience, "SHORT", 0.0)
    monkeypatch.setattr(Patience, "SHORT_BEHIND_LARGE", LIMIT)
    asks = 200
    with Actor(LooksBehindLarge(), context=context) as actor:
        item = bytes(size)
        for _ in range(10):
            before = ask(actor.proxy.echo, item).result(LIMIT)[1], sleeps()
        for _ in range(asks):
            after = ask(actor.proxy.echo, item).result(LIMIT)[1], sleeps()
        slept = [end - start for start, end in zip(before, after, strict=True)]
        assert [many_sleep] * 2 == [count > asks / 2 for count in slept], slept
