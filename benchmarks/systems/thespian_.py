"""Thespian: actors in processes, messages over TCP (its system base for more than one process)."""

from __future__ import annotations

from thespian.actors import Actor, ActorExitRequest, ActorSystem

from benchmarks.node import Node
from benchmarks.systems import System


class ThespianNode(Actor, Node):
    def __init__(self):
        Actor.__init__(self)
        Node.__init__(self)

    def sender(self, other, method):
        return lambda *args: self.send(other, (method, args, False))

    def receiveMessage(self, message, sender):
        if isinstance(message, tuple):
            method, args, asked = message
            value = getattr(self, method)(*args)
            if asked:
                self.send(sender, (value,))


class ThespianSystem(System):
    MODULE = "thespian.actors"
    SLOWER = 20
    UNABLE = {
        "memory": "its processes are no descendants of the program's",
        "create_and_stop": "its stop can't be waited for",
    }

    def __init__(self):
        self._system = ActorSystem("multiprocTCPBase", logDefs={"version": 1})

    def start(self, count, writers=1):
        nodes = [self._system.createActor(ThespianNode) for _ in range(count)]
        for node in nodes:
            self.ask(node, "finished")
        return nodes

    def stop(self, nodes):
        for node in nodes:
            self._system.tell(node, ActorExitRequest())

    def close(self):
        self._system.shutdown()

    def tell(self, node, method, *args):
        self._system.tell(node, (method, args, False))

    def ask(self, node, method, *args):
        return self._system.ask(node, (method, args, True), 30)[0]

    def ask_many(self, node, method, values):
        values = list(values)
        for value in values:
            self._system.tell(node, (method, (value,), True))
        return [self._system.listen(30) for _ in values]
