"""xoscar: asyncio actors in a pool of processes; a process each here."""

from __future__ import annotations

import asyncio
import time

import xoscar

from benchmarks.node import Node
from benchmarks.systems import System


class XoscarNode(xoscar.Actor, Node):
    def __init__(self):
        xoscar.Actor.__init__(self)
        Node.__init__(self)

    def sender(self, other, method):
        return getattr(other, method).tell

    async def produce(self, consumer, count):
        send = self.sender(consumer, "count")
        for number in range(count):
            await send(number)

    async def link(self, follower):
        Node.link(self, follower)

    async def hop(self, left):
        if left:
            await self.forward(left - 1)
        else:
            self.at = time.monotonic()


class Xoscar(System):
    MODULE = "xoscar"
    SLOWER = 10
    UNABLE = {
        "ring_100": "not run: to start 100 processes takes most of the limit",
        "alive_500": "not run: 500 processes need more than 30 GB",
        "create_and_stop": "a pool's processes are made at its start",
    }

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._run = self._loop.run_until_complete
        self._pools = []

    def start(self, count, writers=1):
        async def start():
            # Nothing runs in a pool's main process but what makes the others.
            pool = await xoscar.create_actor_pool("127.0.0.1", n_process=count)
            self._pools.append(pool)
            config = pool._config
            return [
                await xoscar.create_actor(XoscarNode, address=config.get_external_address(index), uid=f"node{index}")
                for index in config.get_process_indexes()[1:]
            ]

        nodes = self._run(start())
        for node in nodes:
            self.ask(node, "finished")
        return nodes

    def stop(self, nodes):
        self.close()

    def close(self):
        for pool in self._pools:
            self._run(pool.stop())
        self._pools.clear()

    def tell(self, node, method, *args):
        self._run(getattr(node, method).tell(*args))

    def tell_many(self, node, method, values):
        async def tell():
            send = getattr(node, method).tell
            for value in values:
                await send(value)

        self._run(tell())

    def ask(self, node, method, *args):
        async def ask():
            return await getattr(node, method)(*args)

        return self._run(ask())

    def ask_each(self, node, method, value, count):
        async def ask():
            asked = getattr(node, method)
            times = []
            for _ in range(count):
                began = time.perf_counter()
                await asked(value)
                times.append(time.perf_counter() - began)
            return times

        return self._run(ask())

    def ask_many(self, node, method, values):
        async def ask():
            asked = getattr(node, method)
            return await asyncio.gather(*[asked(value) for value in values])

        return self._run(ask())

    gather_many = ask_many
