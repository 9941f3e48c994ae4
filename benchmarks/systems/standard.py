"""Actors by hand: a process with a loop over what the standard library has to send objects with.

A node is the number of its channel; all channels of a batch are made before its processes are forked. Channel 0 takes
the replies.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import struct
import time

from benchmarks.node import Node
from benchmarks.systems import System

_fork = multiprocessing.get_context("fork")


class OsPipeChannel:
    """A pipe and a pickle: one write a message, which up to 4,096 bytes needs no lock, and reads of all that is there.

    This is about what Python can do at best. It is no mailbox: nothing is checked, and whoever is killed breaks it.
    """

    def __init__(self, _writers):
        self._in, self._out = os.pipe()
        self._buffer = bytearray()

    def put(self, message):
        body = pickle.dumps(message, 5)
        data = struct.pack("<I", len(body)) + body
        sent = os.write(self._out, data)
        while sent < len(data):
            sent += os.write(self._out, memoryview(data)[sent:])

    def messages(self):
        buffer = self._buffer
        while True:
            while len(buffer) < 4 or len(buffer) < (end := 4 + struct.unpack_from("<I", buffer)[0]):
                buffer += os.read(self._in, 1 << 16 if len(buffer) < 4 else max(1 << 16, end - len(buffer)))
            start = 0
            while end <= len(buffer):
                yield pickle.loads(memoryview(buffer)[start + 4 : end])
                start = end
                if len(buffer) < start + 4:
                    break
                end = start + 4 + struct.unpack_from("<I", buffer, start)[0]
            del buffer[:start]

    def close(self):
        os.close(self._in)
        os.close(self._out)


class PipeChannel:
    """`multiprocessing.Pipe`, with a lock where more than one process writes."""

    def __init__(self, writers):
        self._in, self._out = _fork.Pipe(duplex=False)
        self._lock = _fork.Lock() if writers > 1 else contextlib.nullcontext()

    def put(self, message):
        with self._lock:
            self._out.send(message)

    def messages(self):
        while True:
            yield self._in.recv()

    def close(self):
        self._in.close()
        self._out.close()


class QueueChannel:
    """`multiprocessing.Queue`."""

    def __init__(self, _writers):
        self._queue = _fork.Queue()
        self.put = self._queue.put

    def messages(self):
        while True:
            yield self._queue.get()

    def close(self):
        self._queue.close()


class Standard(System):
    MODULE = "multiprocessing"
    channel: type

    def __init__(self):
        self._channels = [self.channel(1)]
        self._replies = self._channels[0].messages()
        self._processes = {}

    def start(self, count, writers=1):
        first = len(self._channels)
        nodes = [*range(first, first + count)]
        self._channels += [self.channel(writers) for _ in nodes]
        for node in nodes:
            self._processes[node] = _fork.Process(target=self._run, args=(node,))
            self._processes[node].start()
        for node in nodes:
            self.ask(node, "finished")
        return nodes

    def stop(self, nodes):
        for node in nodes:
            self._channels[node].put(None)
        for node in nodes:
            self._processes.pop(node).join()
            self._channels[node].close()

    def close(self):
        self.stop([*self._processes])

    def tell(self, node, method, *args):
        self._channels[node].put((method, args, False))

    def tell_many(self, node, method, values):
        put = self._channels[node].put
        for value in values:
            put((method, (value,), False))

    def ask(self, node, method, *args):
        self._channels[node].put((method, args, True))
        return next(self._replies)

    def ask_each(self, node, method, value, count):
        put, replies = self._channels[node].put, self._replies
        times = []
        for _ in range(count):
            began = time.perf_counter()
            put((method, (value,), True))
            next(replies)
            times.append(time.perf_counter() - began)
        return times

    def ask_many(self, node, method, values):
        # Both FIFOs are short: whoever asks too far ahead without reading waits for ever.
        ahead = 500
        asked, replies = 0, []
        for value in values:
            self._channels[node].put((method, (value,), True))
            asked += 1
            if asked - len(replies) > ahead:
                replies.append(next(self._replies))
        while len(replies) < asked:
            replies.append(next(self._replies))
        return replies

    def _run(self, number):
        node = StandardNode(self)
        reply = self._channels[0].put
        for message in self._channels[number].messages():
            if message is None:
                return
            method, args, asked = message
            value = getattr(node, method)(*args)
            if asked:
                reply(value)


class StandardNode(Node):
    def __init__(self, system):
        super().__init__()
        self._system = system

    def sender(self, other, method):
        return functools.partial(self._system.tell, other, method)


class OsPipe(Standard):
    channel = OsPipeChannel


class MpPipe(Standard):
    channel = PipeChannel


class MpQueue(Standard):
    channel = QueueChannel
