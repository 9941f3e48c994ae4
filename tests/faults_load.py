"""Faults: too much, and everybody at once."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import threading
import time

import pytest
from fault_actors import Eater, Flooder, Node, Storm, feed
from fault_support import SOON, fault, files_in
from support import LIMIT, Recorder, eventually, reached, results, within

from pactor import Actor, DeadlockError, _runtime, ask

GB = 1 << 30


def need_memory(size):
    place = os.path.dirname(_runtime.home().path)
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    if min(free, shutil.disk_usage(place).free) < size:
        pytest.skip(f"needs {size >> 20} MB free in memory and in {place}")


@fault("a payload of 1 GB", "it arrives while others are served, and is freed behind its message")
def send_a_gigabyte(context, tmp_path):
    need_memory(3 * GB)
    with Actor(Eater(), context=context) as eater, Actor(Recorder(), context=context) as other:
        results([ask(eater.proxy.eaten), ask(other.proxy.echo)])  # how long it takes to start is no part of this
        with mmap.mmap(-1, GB, mmap.MAP_PRIVATE) as data:  # it holds nothing, so here it takes no memory
            sizes, served, longest = [], 0, 0.0
            sender = threading.Thread(
                target=lambda: sizes.append(ask(eater.proxy.size_of, pickle.PickleBuffer(data)).result(LIMIT))
            )
            began = time.monotonic()
            sender.start()
            while sender.is_alive():
                asked = time.monotonic()
                assert served == ask(other.proxy.echo, served).result(LIMIT)
                longest = max(longest, time.monotonic() - asked)
                assert 0 == ask(eater.proxy.eaten).result(LIMIT)[0]
                served += 1
            assert [GB] == sizes
            assert served > 10
            assert longest < (time.monotonic() - began) / 4  # that is, nobody waits until it is copied
            sender = None
        assert [] == files_in(eater.proxy)
        eventually(lambda: ask(eater.proxy.shared_memory).result(LIMIT) < 10_000)


@fault("10,000 payloads of 1 MB", "all arrive, in order; at most maxsize are unread; freed when read", limit=90)
def send_many_megabytes(context, tmp_path):
    need_memory(GB)
    # That takes 10 to 20 seconds, and is the same under each start method, so under the others there are fewer.
    count = 10_000 if context.get_start_method() == "fork" else 500
    with Actor(Eater(), maxsize=50, context=context) as eater:
        sender = context.Process(target=feed, args=(eater.proxy, count, 1_000_000))
        sender.start()
        most, eaten = 0, 0
        while eaten < count:
            most = max(most, len(files_in(eater.proxy)))
            eaten, size = ask(eater.proxy.eaten).result(LIMIT)
        sender.join(LIMIT)
        assert (count, count * 1_000_000, 0) == (eaten, size, sender.exitcode)
        assert most <= 52  # and the one in hand, and the one that waits for its slot
        assert [] == files_in(eater.proxy)
        assert 10_000 > ask(eater.proxy.shared_memory).result(LIMIT)


@fault("300 payloads of 1 MB queued, and nobody reads", "the senders go on; all arrive, and their files are gone")
def queue_many_megabytes(context, tmp_path):
    need_memory(GB)
    gate = tmp_path / "gate"
    with Actor(Eater(), context=context) as eater:
        eater.proxy.wait_for(gate)
        reached(gate)
        feed(eater.proxy, 300, 1_000_000)
        assert 300 == len(files_in(eater.proxy))
        gate.touch()
        assert (300, 300_000_000) == ask(eater.proxy.eaten).result(LIMIT)
        assert [] == files_in(eater.proxy)


@fault("self-send storm of 1,000,000", "FIFO; an ask is answered in between; the inbox shrinks again", limit=60)
def storm(context, tmp_path):
    # Likewise.
    count = 1_000_000 if context.get_start_method() == "fork" else 50_000
    with Actor(Storm(), context=context) as actor:
        actor.proxy.blow(count)
        during = ask(actor.proxy.counted).result(LIMIT)
        assert 0 <= during < count
        eventually(lambda: ask(actor.proxy.counted).result(LIMIT) == count)
        assert 1_000_000 > os.stat(f"{actor.proxy.__channel__.mailbox}/inbox").st_size


@fault("close() during a self-send storm", "it ends; what it sends itself behind that is dropped")
def close_in_a_storm(context, tmp_path):
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.note_and_repeat(10**9)
        actor.proxy.note("mine")
        eventually(lambda: "mine" in ask(actor.proxy.all).result(LIMIT))
        actor.close()
        assert actor.join(LIMIT)
    with Actor(Recorder(), context=context) as actor:
        actor.proxy.enqueue_many(100_000)
        last = ask(actor.proxy.all)
        actor.close()
        assert actor.join(LIMIT)
        assert last.result(LIMIT) == [*range(len(last.result()))]


@fault("two actors flood each other, and themselves", "no deadlock, nothing is lost")
def flood_each_other(context, tmp_path):
    with Actor(Flooder(), context=context) as one, Actor(Flooder(), context=context) as two:
        flood([one.proxy, two.proxy], lambda proxy: [one.proxy, two.proxy], 10_000)


@fault("a ring of actors floods", "no deadlock, nothing is lost")
def flood_in_a_ring(context, tmp_path):
    with (
        Actor(Flooder(), context=context) as one,
        Actor(Flooder(), context=context) as two,
        Actor(Flooder(), context=context) as three,
    ):
        ring = [one.proxy, two.proxy, three.proxy]
        flood(ring, lambda proxy: [ring[ring.index(proxy) - 1]], 10_000)


@fault("an actor asks itself, and waits", "DeadlockError at once, which names it")
def ask_oneself(context, tmp_path):
    with Actor(Node(), context=context, name="narcissus") as actor:
        wait_in_a_circle([actor])


@fault("three actors ask each other in a circle, and wait", "DeadlockError within a second, which names them")
def ask_in_a_circle(context, tmp_path):
    with (
        Actor(Node(), context=context, name="one") as one,
        Actor(Node(), context=context, name="two") as two,
        Actor(Node(), context=context, name="three") as three,
    ):
        wait_in_a_circle([one, two, three])


def wait_in_a_circle(actors):
    for actor, other in zip(actors, actors[1:] + actors[:1], strict=True):
        ask(actor.proxy.meet, other.proxy).result(LIMIT)
    with within(SOON), pytest.raises(DeadlockError) as caught:
        ask(actors[0].proxy.ask_next).result(LIMIT)
    assert [] == [actor.name for actor in actors if repr(actor.name) not in str(caught.value)]
    for actor in actors:
        assert ask(actor.proxy.alive).result(LIMIT)


def flood(proxies, targets, count):
    for proxy in proxies:
        proxy.flood(targets(proxy), count)
    senders = len(targets(proxies[0]))
    for proxy in proxies:
        eventually(lambda: ask(proxy.received).result(LIMIT) == senders * count)  # noqa: B023
