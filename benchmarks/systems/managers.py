"""`multiprocessing.managers`: an object in the manager's process, and proxies whose calls wait for their reply."""

from __future__ import annotations

import multiprocessing
from multiprocessing.managers import BaseManager

from benchmarks.node import Node
from benchmarks.systems import System

_NO_TELL = "every call waits for its reply"


class Managers(System):
    MODULE = "multiprocessing.managers"
    UNABLE = dict.fromkeys(["tell", "fan_in", "pipeline", "ping_pong", "ring_8", "ring_100", "numpy_8_mb"], _NO_TELL)

    def __init__(self):
        self._managers = {}

    def start(self, count, writers=1):
        nodes = []
        for _ in range(count):
            manager = _Manager(ctx=multiprocessing.get_context("fork"))
            manager.start()
            node = manager.Node()
            node.finished()
            self._managers[id(node)] = manager
            nodes.append(node)
        return nodes

    def stop(self, nodes):
        for node in nodes:
            self._managers.pop(id(node)).shutdown()

    def close(self):
        for manager in self._managers.values():
            manager.shutdown()

    def ask(self, node, method, *args):
        return getattr(node, method)(*args)


class _Manager(BaseManager):
    pass


_Manager.register("Node", Node)
