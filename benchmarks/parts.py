"""``python -m benchmarks.parts``: where the time of a tell and of an ask goes, and what it costs to have an actor.

Each figure is microseconds of processor that a message costs, of one that takes its turn among many; so hardly anybody
sleeps. It is the least of several rounds, no median: the others were disturbed. What can't be spared is measured by
itself: to pickle, to write, to read, to unpickle. The rest is what Python executes besides, and that somebody looks for
the next message where there is none yet.

Then, what the clock says where one ask waits for the other, the median, beside two processes that do no more than they
must (see `bare`); and how much of a processor it takes, in one round, that an actor has little to do, or nothing. Of
asks that is both ends, as the asker looks for the reply; the loop that waits for the next one is not counted.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import time

from benchmarks import bare
from benchmarks.systems.pactor_ import PactorNode
from pactor import Actor, ask

_COUNT = 20_000
_LARGE = 100_000
_ROUNDS = 9
#: How many messages a second are few, and for how many seconds they are sent.
_FEW, _SECONDS = 1_000, 2.0


class Measured(PactorNode):
    def used(self):
        return time.process_time()


def _least(measure):
    """The least of some rounds: the others were disturbed."""
    return min(measure() for _ in range(_ROUNDS))


def _timed(function, count=_COUNT):
    """What a call costs, the loop not counted."""
    empty = _least(lambda: _loop(lambda: None, count))
    return max(0.0, _least(lambda: _loop(function, count)) - empty)


def _loop(function, count):
    began = time.process_time()
    for _ in range(count):
        function()
    return 1e6 * (time.process_time() - began) / count


def _pipe(data):
    """What it costs to write so many bytes, and to read them with all that are there."""
    receiver, sender = os.pipe()
    batch = fcntl.fcntl(sender, fcntl.F_GETPIPE_SZ) // 2 // len(data)
    spent = []
    for _ in range(_ROUNDS * 10):
        began = time.process_time()
        for _ in range(batch):
            os.write(sender, data)
        written = time.process_time()
        os.read(receiver, batch * len(data))
        spent.append((written - began, time.process_time() - written))
    os.close(receiver)
    os.close(sender)
    return [1e6 * min(column) / batch for column in zip(*spent, strict=True)]


def _both(proxy, send):
    """What a message costs here, and there."""
    figures = []
    for _ in range(_ROUNDS):
        there, here = ask(proxy.used).result(), time.process_time()
        send()
        here = time.process_time() - here
        figures.append((here, ask(proxy.used).result() - there))
    return [1e6 * min(column) / _COUNT for column in zip(*figures, strict=True)]


def _ask_all(method):
    for _ in range(_COUNT // 1_000):
        for future in [ask(method, 1) for _ in range(1_000)]:
            future.result()


def _tell_all(method):
    for _ in range(_COUNT):
        method(1)


def _clock(method, value, count):
    """How long an ask takes, the median."""
    return bare.median(lambda _: ask(method, value).result(), value, count)


def _share(proxy, send):
    """How much of a processor is used while ``send`` is called now and then, in percent: here, and by the actor."""
    there, here, began = ask(proxy.used).result(), time.process_time(), time.monotonic()
    for number in range(int(_FEW * _SECONDS)):
        send()
        time.sleep(max(0.0, began + (number + 1) / _FEW - time.monotonic()))
    here, took = time.process_time() - here, time.monotonic() - began
    return 100 * here / took, 100 * (ask(proxy.used).result() - there) / took


def _row(title, figure):
    print(f"{title:55} {figure:6.2f}")


def _rows(title, total, parts):
    _row(title, total)
    for name, part in parts.items():
        _row(f"  {name}", part)
    _row("  the rest", total - sum(parts.values()))


def main():
    message = ("count", (1,), {})
    pickled = pickle.dumps(message, 5)
    pickling, unpickling = _timed(lambda: pickle.dumps(message, 5)), _timed(lambda: pickle.loads(pickled))
    writing, reading = _pipe(pickled)
    reply = pickle.dumps(1, 5)
    pickling_reply, unpickling_reply = _timed(lambda: pickle.dumps(1, 5)), _timed(lambda: pickle.loads(reply))
    with Actor(Measured, context=multiprocessing.get_context("fork")) as actor:
        proxy = actor.proxy
        sender, receiver = _both(proxy, lambda: _tell_all(proxy.count))
        asker, asked = _both(proxy, lambda: _ask_all(proxy.echo))
        loop, idle = _share(proxy, lambda: None)
        _, told = _share(proxy, lambda: proxy.count(1))
        ends = _share(proxy, lambda: ask(proxy.echo, 1).result())
        shares = {
            "nothing to do, the actor": idle,
            f"told {_FEW:,} times a second, the actor": told,
            f"asked {_FEW:,} times a second, both ends": sum(ends) - loop,
        }
        alone, large = _clock(proxy.echo, 1, _COUNT), _clock(proxy.echo, bytes(_LARGE), 2_000)
    _rows("tell: its sender", sender, {"pickle": pickling, "write": writing})
    _rows("tell: the actor", receiver, {"read": reading, "unpickle": unpickling})
    _rows(
        "ask: its asker",
        asker,
        {"pickle": pickling, "write": writing, "read": reading, "unpickle the reply": unpickling_reply},
    )
    _rows(
        "ask: the actor",
        asked,
        {"read": reading, "unpickle": unpickling, "pickle the reply": pickling_reply, "write": writing},
    )
    _row("ask, one at a time, by the clock", alone)
    _row("  by two bare processes, through pipes", bare.ask())
    _row("echo of 100 KB, by the clock", large)
    _row("  its copies, by two bare processes", bare.echo(_LARGE))
    for what, share in shares.items():
        _row(f"% of a processor: {what}", share)


if __name__ == "__main__":
    main()
