"""What the tests of an actor's start and end wrap. Without pytest, so that a spawned process starts soon."""

from __future__ import annotations

from support import LIMIT, Recorder

from pactor import Actor, ask, current_actor, watch


class Hooked(Recorder):
    """Writes down when its hooks are called."""

    def __init__(self, log):
        super().__init__()
        self.log = log
        self._write("init")

    def on_start(self):
        self._write("start")
        self.enqueue(self.note, "from on_start")

    def on_stop(self):
        self._write("stop")

    def write(self, text):
        self._write(text)

    def _write(self, text):
        with open(self.log, "a") as file:
            file.write(f"{text} ")


class FailsOnStart(Recorder):
    def on_start(self):
        raise ValueError("not today")


class FailsOnStop(Recorder):
    def on_stop(self):
        raise ValueError("not again")


class Replier(Recorder):
    """Asks others when it starts and when it ends."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def on_start(self):
        self.note(ask(self.other.total).result(LIMIT))

    def on_stop(self):
        self.other.add(10)


class Watcher(Recorder):
    def see(self, proxy):
        watch(proxy, self.ended)

    def ended(self, proxy, reason):
        self.note(proxy, reason)

    def see_to(self, proxy, method):
        watch(proxy, getattr(self, method))

    def watch_with(self, *arguments):
        watch(*arguments)

    def watch_self(self):
        watch(current_actor().proxy, self.ended)


class Knows(Recorder):
    def __init__(self):
        super().__init__()
        self.at_first = current_actor()

    def on_start(self):
        self.note(current_actor().name)

    def type_of_its_proxy(self):
        return type(current_actor().proxy).__name__

    def use(self):
        me = current_actor()
        me.enqueue(self.note, "enqueued")
        me.enqueue_later(0, self.note, "later")
        me.proxy.note("told")
        return self.at_first, repr(me)


class Group(Recorder):
    """An actor whose parts live and die together: it fails with any of them."""

    def on_start(self):
        self.parts = [Actor(Recorder(), name=f"part {i}") for i in range(2)]
        for part in self.parts:
            watch(part.proxy, self.part_ended)

    def part_ended(self, part, reason):
        raise reason

    def proxies(self):
        return [part.proxy for part in self.parts]


class WatchesTooEarly:
    def __init__(self, proxy):
        watch(proxy, self.ended)

    def ended(self, proxy, reason):
        pass
