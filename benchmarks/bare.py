"""What an ask and an echo take that are done by hand: two bare processes, which never sleep, and do the least.

So these are what the same frames, pickles and copies need on this machine at its best, whatever is written around them.
"""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import pickle
import select
import signal
import struct
import time

_ROUNDS = 3_000
#: After so many seconds either process ends that waits for the other one: nobody tells it that that one is gone.
_LIMIT = 60
#: How many pieces of memory the copies go round: to overwrite what the other one has read lately takes longer.
_IN_TURN = 8


def ask():
    """The median of an ask, in microseconds: its frame and the reply's by pipes, both pickled."""
    asks, replies = os.pipe(), os.pipe()
    ask_head, reply_head = struct.Struct("<HBQ40sH"), struct.Struct("<HBQ")
    wrapped = {"echo": lambda value: value}

    def receive(pipe):
        poll = select.poll()
        poll.register(pipe[0], select.POLLIN)
        while True:
            while not poll.poll(0):
                os.sched_yield()
            yield os.read(pipe[0], 65536)

    def serve():
        for frame in receive(asks):
            name, arguments, keywords = pickle.loads(frame[ask_head.size :])
            body = pickle.dumps(wrapped[name](*arguments, **keywords), 5)
            _, _, number, _, _ = ask_head.unpack_from(frame)
            os.write(replies[1], reply_head.pack(reply_head.size + len(body), 3, number) + body)

    came = receive(replies)

    def go(number):
        body = pickle.dumps(("echo", (1,), {}), 5)
        os.write(asks[1], ask_head.pack(ask_head.size + len(body), 2, number, bytes(40), 40) + body)
        frame = next(came)
        assert reply_head.unpack_from(frame)[2] == number
        return pickle.loads(frame[reply_head.size :])

    try:
        return _served(serve, go, 1)
    finally:
        for fd in (*asks, *replies):
            os.close(fd)


def echo(size):
    """The median of four copies, in microseconds: into memory that both see, out of it, and the same way back."""
    step = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(-1, mmap.PAGESIZE + 2 * _IN_TURN * step) as memory:
        data = b"x" * size

        def place(number, way):
            start = mmap.PAGESIZE + (2 * (number % _IN_TURN) + way) * step
            return slice(start, start + size)

        def serve():
            for number in itertools.count():
                while memory[0] != number % 251 + 1:
                    os.sched_yield()
                memory[place(number, 1)] = memory[place(number, 0)]
                memory[64] = memory[0]

        def go(number):
            memory[place(number, 0)] = data
            memory[0] = number % 251 + 1
            while memory[64] != memory[0]:
                os.sched_yield()
            return memory[place(number, 1)]

        return _served(serve, go, data)


def median(call, expected, count):
    """The median of so many calls, in microseconds; each takes its number and returns what is expected."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        result = call(number)
        times.append(time.perf_counter() - began)
        assert expected == result
    return 1e6 * sorted(times)[count // 2]


def _served(serve, call, expected):
    """The median while another process serves."""

    def serve_for_a_while():
        signal.alarm(_LIMIT)
        serve()

    process = multiprocessing.get_context("fork").Process(target=serve_for_a_while, daemon=True)
    signal.alarm(_LIMIT)
    try:
        process.start()
        return median(call, expected, _ROUNDS)
    finally:
        signal.alarm(0)
        if process.pid:
            process.kill()
            process.join()
