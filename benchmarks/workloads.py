"""The workloads, each a function of a system: it returns a number, or several by name.

Small for the quick form, of the size that steady figures need for the full one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Workload(NamedTuple):
    """A row."""

    run: Callable[..., dict[str, float]]
    title: str
    unit: str
    more_is_better: bool
    limit: float  #: of a cell, in seconds


WORKLOADS: dict[str, Workload] = {}


def workload(title, unit, *, more_is_better=False, limit=60.0):
    def add(run):
        WORKLOADS[run.__name__] = Workload(run, title, unit, more_is_better, limit)
        return run

    return add


def _finished(system, *nodes):
    """Waits until the last message has come to one of the nodes; returns when that was."""
    pause = 0.002
    while True:
        for node in nodes:
            if at := system.ask(node, "finished"):
                return at
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


@workload("tell", "messages/s", more_is_better=True)
def tell(system, full):
    count = (200_000 if full else 50_000) // system.SLOWER
    (node,) = system.start(1)

    def rate(count):
        system.ask(node, "expect", count)
        began = time.monotonic()
        system.tell_many(node, "count", range(count))
        return count / (_finished(system, node) - began)

    rate(count // 10)
    return {"": rate(count)}


@workload("fan-in from 4 producers", "messages/s", more_is_better=True)
def fan_in(system, full):
    each = (50_000 if full else 12_500) // system.SLOWER
    consumer, *producers = system.start(5, writers=5)
    system.ask(consumer, "expect", 4 * each)
    began = time.monotonic()
    for producer in producers:
        system.tell(producer, "produce", consumer, each)
    return {"": 4 * each / (_finished(system, consumer) - began)}


@workload("ask", "us")
def ask(system, full):
    count = (10_000 if full else 2_000) // system.SLOWER
    (node,) = system.start(1)
    system.ask_each(node, "echo", 1, count // 10)
    took = sorted(system.ask_each(node, "echo", 1, count))
    return {"p50": 1e6 * took[count // 2], "p99": 1e6 * took[count * 99 // 100]}


@workload("ask, one each 5 ms", "us")
def ask_seldom(system, full):
    """Whoever looks for messages has stopped doing so before the next one."""
    count = max(20, (400 if full else 100) // system.SLOWER)
    (node,) = system.start(1)
    system.ask_each(node, "echo", 1, 10)
    times = []
    for _ in range(count):
        time.sleep(0.005)
        times += system.ask_each(node, "echo", 1, 1)
    return {"": 1e6 * statistics.median(times)}


@workload("asks in a pipeline", "asks/s", more_is_better=True)
def pipeline(system, full):
    count = (20_000 if full else 4_000) // system.SLOWER
    (node,) = system.start(1)
    system.ask_many(node, "echo", range(count // 10))
    began = time.monotonic()
    system.ask_many(node, "echo", range(count))
    return {"": count / (time.monotonic() - began)}


@workload("5,000 asks awaited by gather", "asks/s", more_is_better=True)
def gather(system, full):
    count = 5_000 if full else 5_000 // system.SLOWER
    (node,) = system.start(1)
    system.gather_many(node, "echo", range(count // 10))
    began = time.monotonic()
    system.gather_many(node, "echo", range(count))
    return {"": count / (time.monotonic() - began)}


def _ring(system, size, hops):
    nodes = system.start(size, writers=2)
    for node, follower in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        system.ask(node, "link", follower)
    system.ask(nodes[0], "echo", 1)
    began = time.monotonic()
    system.tell(nodes[0], "hop", hops)
    return {"": 1e6 * (_finished(system, nodes[hops % size]) - began) / hops}


@workload("ping-pong, a hop", "us")
def ping_pong(system, full):
    return _ring(system, 2, (20_000 if full else 5_000) // system.SLOWER)


@workload("ring of 8, a hop", "us")
def ring_8(system, full):
    return _ring(system, 8, (20_000 if full else 5_000) // system.SLOWER)


@workload("ring of 100, a hop", "us")
def ring_100(system, full):
    return _ring(system, 100, (20_000 if full else 5_000) // system.SLOWER)


@workload("creation and first reply", "ms")
def create(system, full):
    began = time.monotonic
    times = []
    for _ in range(20 if full else 5):
        start = began()
        nodes = system.start(1)
        times.append(began() - start)
        system.stop(nodes)
    return {"": 1e3 * statistics.median(times)}


@workload("creation, reply and stop", "ms")
def create_and_stop(system, full):
    count = 20 if full else 5
    began = time.monotonic()
    for _ in range(count):
        system.stop(system.start(1))
    return {"": 1e3 * (time.monotonic() - began) / count}


def _echo(system, size, count):
    count = max(3, count // system.SLOWER)
    (node,) = system.start(1)
    value = os.urandom(size)
    if system.ask(node, "echo", value) != value:
        raise AssertionError("another value")
    system.ask_each(node, "echo", value, 2)
    took = sum(system.ask_each(node, "echo", value, count))
    return {"": 2 * size * count / took / 1e6}


@workload("echo of 1 KB, both ways", "MB/s", more_is_better=True)
def echo_1_kb(system, full):
    return _echo(system, 1_000, 5_000 if full else 1_000)


@workload("echo of 100 KB, both ways", "MB/s", more_is_better=True)
def echo_100_kb(system, full):
    return _echo(system, 100_000, 1_000 if full else 200)


@workload("echo of 10 MB, both ways", "MB/s", more_is_better=True)
def echo_10_mb(system, full):
    return _echo(system, 10_000_000, 20 if full else 5)


@workload("tell of a numpy array of 8 MB", "MB/s", more_is_better=True)
def numpy_8_mb(system, full):
    import numpy

    count = 50 if full else 20
    (node,) = system.start(1)
    array = numpy.random.default_rng(0).random(1_000_000)

    def rate(count):
        system.ask(node, "expect", count)
        began = time.monotonic()
        system.tell_many(node, "weigh", [array] * count)
        return array.nbytes * count / (_finished(system, node) - began) / 1e6

    rate(count // 10)
    return {"": rate(count)}


@workload("memory of one more idle actor", "MB")
def memory(system, full):
    count = 10 if full else 5
    system.start(1)  # what there is once, is there now
    before = _memory()
    system.start(count)
    time.sleep(0.2)  # idle
    after = _memory()
    return {key: (after[key] - before[key]) / count / 1e6 for key in before}


def _memory():
    """Proportional and unique set size of this process and its descendants, in bytes."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
    ours, new = {os.getpid()}, {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        ours |= new
    total = {"PSS": 0, "USS": 0}
    for pid in ours:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    key, _, rest = line.partition(":")
                    if key == "Pss":
                        total["PSS"] += 1024 * int(rest.split()[0])
                    elif key in ("Private_Clean", "Private_Dirty"):
                        total["USS"] += 1024 * int(rest.split()[0])
        except OSError:
            continue
    return total


@workload("500 actors alive, each", "ms", limit=300.0)
def alive_500(system, full):
    count = 500 if full else 100
    began = time.monotonic()
    nodes = system.start(count)
    for number, node in enumerate(nodes):
        if system.ask(node, "echo", number) != number:
            raise AssertionError("another's reply")
    return {"": 1e3 * (time.monotonic() - began) / count}


@workload("import", "ms")
def imports(system, full):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # where it is set, some would be compiled each time

    def once(statement):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
        return time.monotonic() - began

    once(f"import {system.MODULE}")  # compiles it
    rounds = range(11 if full else 5)
    pairs = [(once("pass"), once(f"import {system.MODULE}")) for _ in rounds]
    return {"": 1e3 * (statistics.median(took for _, took in pairs) - statistics.median(took for took, _ in pairs))}
