"""`concurrent.futures.ProcessPoolExecutor` with one process, which keeps the object in a global."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing

from benchmarks.node import Node
from benchmarks.systems import System

_NO_ADDRESS = "a worker can't send to another"


class ProcessPool(System):
    MODULE = "concurrent.futures.process"
    SLOWER = 5
    UNABLE = dict.fromkeys(["fan_in", "ping_pong", "ring_8", "ring_100"], _NO_ADDRESS)

    def __init__(self):
        self._executors = []

    def start(self, count, writers=1):
        nodes = []
        for _ in range(count):
            context = multiprocessing.get_context("fork")
            node = concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=_start)
            self.ask(node, "finished")
            self._executors.append(node)
            nodes.append(node)
        return nodes

    def stop(self, nodes):
        for node in nodes:
            node.shutdown()

    def close(self):
        self.stop(self._executors)

    def tell(self, node, method, *args):
        node.submit(_call, method, *args)

    def ask(self, node, method, *args):
        return node.submit(_call, method, *args).result()

    def ask_many(self, node, method, values):
        return [future.result() for future in [node.submit(_call, method, value) for value in values]]

    def gather_many(self, node, method, values):
        async def gather():
            futures = [node.submit(_call, method, value) for value in values]
            return await asyncio.gather(*map(asyncio.wrap_future, futures))

        return asyncio.run(gather())


def _start():
    global _node
    _node = Node()


def _call(method, *args):
    return getattr(_node, method)(*args)
