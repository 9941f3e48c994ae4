"""Who receives while a method waits for what pactor does not know of."""

from __future__ import annotations

import errno
import os
import signal
import types

import pytest
from stand_in_actors import (
    MANY,
    AsksAtItsEnd,
    AsksBack,
    AsyncProduces,
    AsyncWaits,
    Floods,
    Interleaves,
    Produces,
    Waits,
)
from support import LIMIT, Recorder, ends, eventually

from pactor import Actor, Mailbox, _stand_in, ask
from pactor._stand_in import StandIn


@pytest.fixture(params=[Waits, AsyncWaits])
def waits(request, context):
    with Actor(request.param(), context=context) as actor:
        yield actor.proxy


def test_its_threads_may_enqueue_as_much_as_they_like(waits):
    ask(waits.enqueue_in_threads).result(LIMIT)
    eventually(lambda: ask(waits.count).result(LIMIT) == MANY)
    assert [*range(MANY)] == sorted(ask(waits.all).result(LIMIT))


@pytest.mark.parametrize("how", ["as_completed", "pool", "event"])
def test_those_that_it_waits_for_may_flood_it(waits, context, how):
    with Actor(Floods(), context=context) as one, Actor(Floods(), context=context) as other:
        waits.meet(waits)
        assert ["flooded"] * 2 == ask(waits.gather, [one.proxy, other.proxy], how).result(LIMIT)
        assert sorted([*range(MANY)] * 2) == sorted(ask(waits.all).result(LIMIT))


@pytest.mark.parametrize("cls", [Produces, AsyncProduces])
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_its_on_stop_may_join_a_thread_that_enqueues(context, cls, end):
    with Actor(cls(), context=context) as actor:
        ask(actor.proxy.produce).result(LIMIT)
        if end == "terminate":
            os.kill(actor.pid, signal.SIGTERM)
        actor.close()
        assert ends(actor)


def test_who_asks_it_at_its_end_is_refused_while_it_waits(context):
    mailbox = Mailbox()
    with Actor(AsksAtItsEnd(), context=context) as actor, Actor(AsksBack(), context=context) as other:
        ask(actor.proxy.meet, actor.proxy, other.proxy, mailbox).result(LIMIT)
        actor.close()
        assert "closed" == mailbox.get(timeout=LIMIT)
        assert ends(actor)


def test_where_there_is_no_room_for_what_comes_who_waits_goes_on_waiting():
    def pull():
        raise OSError(errno.ENOSPC, "full")

    stand_in = StandIn(Mailbox().open_inbox(), 5, pull, lambda: None)
    stand_in.is_away = True
    stand_in.read(5)
    stand_in.come_back()


@pytest.mark.parametrize(("share", "is_stood_in_for"), [(0, True), (0.1, True), (0.9, False)])
def test_a_method_that_computes_keeps_its_senders_waiting(monkeypatch, share, is_stood_in_for):
    moments = types.SimpleNamespace(now=1_000.0, used=0.0)
    clocks = types.SimpleNamespace(
        monotonic=lambda: moments.now, clock_gettime=lambda _: moments.used, pthread_getcpuclockid=lambda _: 1
    )
    monkeypatch.setattr(_stand_in, "time", clocks)
    stand_in, registered = StandIn(Mailbox().open_inbox(), 5, lambda: None, lambda: None), []
    stand_in.is_away = True
    for _ in range(10):
        stand_in.register(types.SimpleNamespace(register=lambda fd, _: registered.append(fd)))
        moments.now += 0.05
        moments.used += share * 0.05
    assert is_stood_in_for == bool(registered)


def test_what_is_received_by_turns_stays_whole_and_in_order(context, gate):
    with Actor(Interleaves(), context=context) as actor, Actor(Recorder(), context=context) as other:
        ask(actor.proxy.listen, other.proxy, gate).result(LIMIT)
        for number in range(MANY):
            actor.proxy.note_slowly(number)
        assert [*range(MANY)] == ask(actor.proxy.all).result(LIMIT)
        gate.touch()
