"""pactor."""

from __future__ import annotations

import functools
import multiprocessing
import time

from benchmarks.node import Node
from benchmarks.systems import System
from pactor import Actor, ask


class PactorNode(Node):
    def sender(self, other, method):
        return getattr(other, method)


class Pactor(System):
    MODULE = "pactor"

    def __init__(self):
        self._context = multiprocessing.get_context("fork")
        self._actors = {}

    def start(self, count, writers=1):
        actors = [Actor(PactorNode, context=self._context) for _ in range(count)]
        for actor in actors:
            ask(actor.proxy.finished).result()
            self._actors[actor.proxy] = actor
        return [actor.proxy for actor in actors]

    def stop(self, nodes):
        actors = [self._actors.pop(node) for node in nodes]
        for actor in actors:
            actor.close()
        for actor in actors:
            actor.join()

    def close(self):
        self.stop([*self._actors])

    def tell(self, node, method, *args):
        getattr(node, method)(*args)

    def tell_many(self, node, method, values):
        send = getattr(node, method)
        for value in values:
            send(value)

    def ask(self, node, method, *args):
        return ask(getattr(node, method), *args).result()

    def ask_each(self, node, method, value, count):
        asked = functools.partial(ask, getattr(node, method))
        times = []
        for _ in range(count):
            began = time.perf_counter()
            asked(value).result()
            times.append(time.perf_counter() - began)
        return times

    def ask_many(self, node, method, values):
        asked = getattr(node, method)
        return [future.result() for future in [ask(asked, value) for value in values]]

    def gather_many(self, node, method, values):
        import asyncio  # not for the others: what is imported here has to be forked with each actor

        async def gather():
            asked = getattr(node, method)
            return await asyncio.gather(*[ask(asked, value) for value in values])

        return asyncio.run(gather())
