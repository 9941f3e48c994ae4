"""Actors by hand: a process with a loop over what the standard library has to send objects with.

A node is the number of its channel; all channels of a batch are made before its processes are forked. Channel 0 takes
the replies.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import multiprocessing
import os
import pickle
import struct
import time
import types

from benchmarks.node import Node
from benchmarks.systems import System

_fork = multiprocessing.get_context("fork")
_head = struct.Struct("<I")
_READ = 1 << 16  #: bytes, at least


class OsPipeChannel:
    """os.pipe and pickle by hand: blocking, one write a message, which up to 4,096 bytes needs no lock.

    For small messages about the least that a way through the kernel costs. It is no mailbox: nothing is checked, and
    whoever is killed breaks it.
    """

    def __init__(self, _writers):
        self._in, self._out = os.pipe()
        self._wide = False
        self._parts = []
        # As to a file, what is large comes as it is: pickle.dumps would copy it. Made once, it takes no longer.
        pickler = pickle.Pickler(types.SimpleNamespace(write=self._parts.append), 5)
        self._dump, self._forget = pickler.dump, pickler.clear_memo

    def put(self, message):
        self._dump(message)
        self._forget()
        parts = self._parts
        if len(parts) > 1:
            self._put_large(parts)
        else:
            body = parts.pop()
            os.write(self._out, _head.pack(len(body)) + body)

    def _put_large(self, parts):
        if not self._wide:  # not from the start: a user's pipes may have only so many pages
            self._wide = True
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 1 << 20)
        size = sum(memoryview(part).nbytes for part in parts)
        parts.insert(0, _head.pack(size))
        sent = os.writev(self._out, parts)
        if sent < 4 + size:  # it is larger than the kernel takes at once
            rest = memoryview(b"".join(parts))[sent:]
            while rest:
                rest = rest[os.write(self._out, rest) :]
        parts.clear()

    def messages(self):
        buffer = memoryview(bytearray(_READ))  # kept: for a fresh one, memory would be mapped
        start = end = 0
        while True:
            if start == end:
                start, end = 0, os.readv(self._in, (buffer,))
            size = 4 + _head.unpack_from(buffer, start)[0] if end - start >= 4 else _READ
            if end - start >= size:
                yield pickle.loads(buffer[start + 4 : start + size])
                start += size
                continue
            if start + size > len(buffer):  # to the front, so that the rest is read to where it belongs
                rest = buffer[start:end]
                if size > len(buffer):
                    buffer = memoryview(bytearray(size))
                buffer[: len(rest)] = rest
                start, end = 0, len(rest)
            end += os.readv(self._in, (buffer[end:],))

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
