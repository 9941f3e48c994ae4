"""pykka: actors that are threads of one process."""

from __future__ import annotations

import asyncio

import pykka

from benchmarks.node import Node
from benchmarks.systems import System


class PykkaNode(pykka.ThreadingActor, Node):
    use_daemon_thread = True

    def __init__(self):
        pykka.ThreadingActor.__init__(self)
        Node.__init__(self)

    def sender(self, other, method):
        return getattr(other, method).defer


class Pykka(System):
    MODULE = "pykka"
    UNABLE = {
        "memory": "a thread, no process",
        **dict.fromkeys(["echo_1_kb", "echo_100_kb", "echo_10_mb", "numpy_8_mb"], "a thread: nothing is copied"),
    }

    def start(self, count, writers=1):
        nodes = [PykkaNode.start().proxy() for _ in range(count)]
        for node in nodes:
            node.finished().get()
        return nodes

    def stop(self, nodes):
        for node in nodes:
            node.actor_ref.stop()  # of a proxy, it would not be waited for

    def close(self):
        pykka.ActorRegistry.stop_all()

    def tell(self, node, method, *args):
        getattr(node, method).defer(*args)

    def tell_many(self, node, method, values):
        send = getattr(node, method).defer
        for value in values:
            send(value)

    def ask(self, node, method, *args):
        return getattr(node, method)(*args).get()

    def ask_many(self, node, method, values):
        asked = getattr(node, method)
        return pykka.get_all([asked(value) for value in values])

    def gather_many(self, node, method, values):
        async def gather():
            asked = getattr(node, method)
            return await asyncio.gather(*[asked(value) for value in values])

        return asyncio.run(gather())
