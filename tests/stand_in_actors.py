"""What the tests of stand-ins wrap. Without pytest, so that a spawned one starts soon."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import types

from support import LIMIT, Recorder

from pactor import ActorClosed, _inbox, ask

#: More messages than a mailbox holds that nobody reads.
MANY = 5_000


class Waits(Recorder):
    """Waits, in a method, for what pactor does not know of."""

    def enqueue_in_threads(self):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda number: self.enqueue(self.note, number), range(MANY)))

    def gather(self, workers, how):
        asks = [ask(worker.flood, self.current) for worker in workers]
        if how == "as_completed":
            return [future.result() for future in concurrent.futures.as_completed(asks)]
        if how == "pool":
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                return list(pool.map(lambda future: future.result(), asks))
        gathered = threading.Event()
        numbers = []

        def gather():
            numbers.extend(future.result() for future in asks)
            gathered.set()

        threading.Thread(target=gather).start()
        assert gathered.wait(LIMIT)
        return numbers

    def meet(self, proxy):
        self.current = proxy

    def count(self):
        return len(self.seen)


class AsyncWaits(Waits):
    async def nothing(self):
        pass


class Floods:
    def flood(self, proxy):
        for number in range(MANY):
            proxy.note(number)
        return "flooded"


class Produces(Recorder):
    """Joins at its end a thread that enqueues until then."""

    def produce(self):
        self.thread = threading.Thread(target=self.enqueue_on)
        self.is_stopping = False
        self.thread.start()

    def enqueue_on(self):
        while not self.is_stopping:
            self.enqueue(self.nothing)

    def nothing(self):
        time.sleep(0.001)

    def on_stop(self):
        self.is_stopping = True
        self.thread.join()


class AsyncProduces(Produces):
    async def none(self):
        pass


class AsksAtItsEnd(Recorder):
    """Waits at its end for a thread that asks somebody who asks back."""

    def meet(self, mine, other, mailbox):
        self.mine, self.other, self.mailbox = mine, other, mailbox

    def on_stop(self):
        thread = threading.Thread(target=self.ask)
        thread.start()
        thread.join()

    def ask(self):
        self.mailbox.put(ask(self.other.ask_back, self.mine).result(LIMIT))


class AsksBack:
    def ask_back(self, proxy):
        try:
            return ask(proxy.all).result(LIMIT)
        except ActorClosed:
            return "closed"


class Interleaves(Recorder):
    """Long methods and short ones, while a thread of its own waits in pactor and messages keep coming."""

    def listen(self, proxy, gate):
        own = threading.get_ident()

        def readv(fd, buffers):
            if threading.get_ident() != own:
                time.sleep(0.25)  # the method that it stands in for ends meanwhile
            return os.readv(fd, buffers)

        _inbox.os = types.SimpleNamespace(**{**vars(os), "readv": readv})
        threading.Thread(target=lambda: ask(proxy.wait_for, gate).result(LIMIT)).start()

    def note_slowly(self, number):
        if number % 500 == 0:
            time.sleep(0.2)
        self.note(number)
