"""What the tests of methods that return futures wrap. Without pytest, so that a spawned process starts soon."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import signal
import threading

from ask_actors import hit_where_it_loads
from support import LIMIT, Recorder, touch

from pactor import Actor, ask, current_actor


class Forwarder(Recorder):
    """Has others do the work."""

    def __init__(self, *chain):
        super().__init__()
        self.chain = chain
        self.futures = []

    def forward(self, method, *args):
        return ask(method, *args)

    def along(self, value):
        """Passes the value along the chain, to whom is asked in the end."""
        if not self.chain:
            return value
        return ask(self.chain[0].along, value + 1)

    def ask_itself(self, value):
        return ask(current_actor().proxy.echo, value)

    def from_a_thread(self, value):
        future = concurrent.futures.Future()
        threading.Timer(0.01, future.set_result, [value]).start()
        return future

    def from_a_thread_at(self, gate):
        future = concurrent.futures.Future()
        threading.Thread(target=lambda: future.set_result(self.wait_for(gate))).start()
        return future

    def at_a_signal(self, value):
        future = concurrent.futures.Future()
        signal.signal(signal.SIGUSR1, lambda *_: future.set_result(value))
        return future

    def fail_in_a_thread(self):
        future = concurrent.futures.Future()
        threading.Timer(0.01, future.set_exception, [KeyError("spam")]).start()
        return future

    def failed(self, error):
        future = concurrent.futures.Future()
        future.set_exception(error)
        return future

    def done(self, value):
        future = concurrent.futures.Future()
        future.set_result(value)
        return future

    def cancelled(self, method, *args):
        future = ask(method, *args)
        future.cancel()
        return future

    def never(self):
        self.futures.append(concurrent.futures.Future())
        return self.futures[-1]

    def hit(self, proxy, gate):
        return hit_where_it_loads(proxy, lambda: touch(gate))

    def fail_deep(self, depth):
        if not depth:
            raise KeyError("spam")
        self.fail_deep(depth - 1)

    def fail_never(self):
        try:
            self.fail_deep(5)
        except KeyError as error:
            for future in self.futures:
                future.set_exception(error)

    def end_never(self):
        for future in self.futures:
            future.set_result("at last")

    def the_same(self):
        if not self.futures:
            self.never()
        return self.futures[0]

    def sleep_and_forward(self, gate, method):
        self.wait_for(gate)
        return ask(method)

    def nested(self, method):
        return [ask(method)]

    def wait_in_a_thread(self, method, *args):
        """Another thread is the one that reads the replies."""
        self.thread = threading.Thread(target=lambda: ask(method, *args).result(LIMIT))
        self.thread.start()


class OwnsForwarder:
    """Owns an actor, for which another works."""

    def own(self, worker, times):
        self.actor = Actor(Forwarder(), context=multiprocessing.get_context("fork"))
        self.futures = [ask(self.actor.proxy.forward, worker.sleep, 0.02) for _ in range(times)]
        ask(self.actor.proxy.echo).result(LIMIT)  # behind them
        return self.actor.pid


class Limited(Forwarder):
    def never_without_descriptors(self):
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, self.before[1]))
        return self.never()

    def done(self, value):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)
        return super().done(value)


class AsyncForwarder(Forwarder):
    async def forward_in_a_coroutine(self, method, *args):
        return ask(method, *args)
