"""What the tests wrap that has `async def` methods, and run in processes. Apart from `support`: few need asyncio."""

from __future__ import annotations

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time

from support import LIMIT, Recorder, eventually, hit_before, touch

from pactor import ActorError, _current, ask, current_actor, tell, watch


class OnSignals(Recorder):
    """Has a handler of SIGUSR1 that its event loop does not know of."""

    async def is_idle(self):
        return True

    def resolve(self, value):
        future = concurrent.futures.Future()
        signal.signal(signal.SIGUSR1, lambda *_: future.set_result(value))
        return future

    def call_later(self, value):
        future = concurrent.futures.Future()
        enqueue_later = current_actor().enqueue_later
        signal.signal(signal.SIGUSR1, lambda *_: enqueue_later(0.01, self.end, value))
        self.future = future
        return future

    def end(self, value):
        self.future.set_result(value)

    def hit_before_it_sleeps(self):
        hit_before(_current._loop, "_deadline")

    def handle_many(self):
        signal.signal(signal.SIGUSR1, lambda *_: None)
        for _ in range(3000):
            signal.raise_signal(signal.SIGUSR1)

    def wait(self, proxy, gate):
        signal.signal(signal.SIGUSR1, lambda *_: ask(proxy.wait_for, gate).result(LIMIT))


class Waiter(Recorder):
    """Waits for files without keeping anybody waiting."""

    async def pass_by(self, gate, value=None):
        self.seen.append(value)
        touch(f"{gate}.reached")
        while not os.path.exists(gate):
            await asyncio.sleep(0.002)
        return value

    async def note_soon(self, *items):
        await asyncio.sleep(0)
        self.note(*items)

    def note_slowly(self, *items):
        time.sleep(0.002)
        self.note(*items)

    async def echo_soon(self, value):
        await asyncio.sleep(0)
        return value

    async def fail_soon(self, error):
        await asyncio.sleep(0)
        raise error

    async def cancel_itself(self):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    async def ask_itself(self):
        return await ask(current_actor().proxy.echo_soon, "from itself")

    async def ask_other(self, method, *args):
        return await ask(method, *args)

    async def note_at_end(self, path):
        try:
            await asyncio.sleep(10 * LIMIT)
        finally:
            with open(path, "a") as file:
                file.write("ended ")

    async def refuse_to_end(self):
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def enqueue_soon(self, n):
        await asyncio.sleep(0)
        self.seen.append(n)
        if n:
            self.enqueue(self.enqueue_soon, n - 1)

    async def enqueue_later_soon(self, *items):
        await asyncio.sleep(0)
        self.enqueue_later(0.01, self.note_soon, *items)

    def a_task(self, value):
        return asyncio.ensure_future(self.echo_soon(value))

    def from_a_thread(self, value):
        future = concurrent.futures.Future()
        threading.Timer(0.01, future.set_result, [value]).start()
        return future

    async def in_a_thread(self):
        return await asyncio.to_thread(threading.get_ident) != threading.get_ident()

    async def many(self, n):
        for i in range(n):
            yield i

    async def fork(self):
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def hang_by_asking(self, proxy):
        return ask(proxy.echo).result(LIMIT)

    async def block_on(self, method, *args):
        return ask(method, *args).result(LIMIT)

    def fork_late(self, gate):
        """The child returns when the gate is there."""
        self.child = os.fork()
        if not self.child:
            eventually(lambda: os.path.exists(gate))

    def write(self, path, text):
        with open(path, "a") as file:
            file.write(text)

    def open_and_die(self, gate):
        touch(gate)
        os.waitpid(self.child, 0)
        self.kill()

    async def cancel_all(self):
        for task in asyncio.all_tasks():
            task.cancel()

    async def stop_loop(self):
        asyncio.get_running_loop().stop()

    async def exit_beside(self):
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(LIMIT)


class Flooder(Recorder):
    def flood(self, proxy, count):
        for _ in range(count):
            proxy.note(bytes(500))
        return count


class StartsSlowly:
    """Says that it is about to start, and takes its time."""

    def __init__(self, path):
        self.path = path

    async def on_start(self):
        touch(self.path)
        await asyncio.sleep(10 * LIMIT)

    async def echo(self, value):
        return value


class StartsAtGate(Recorder):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    async def on_start(self):
        touch(f"{self.gate}.reached")
        while not os.path.exists(self.gate):
            await asyncio.sleep(0.002)


class Exclusive:
    def __init__(self):
        self.steps = 0
        self.ended = False

    async def come_and_go(self):
        while not self.ended:
            self.steps += 1
            await asyncio.sleep(0)

    def stay(self):
        before = self.steps
        time.sleep(0.002)
        return self.steps == before

    def end(self):
        self.ended = True


class Crowd:
    def __init__(self):
        self.inside = 0

    async def enter(self):
        self.inside += 1
        try:
            await asyncio.sleep(0.001)
            return self.inside
        finally:
            self.inside -= 1


class Disguised:
    """As a decorator leaves it."""

    def echo(self, value):
        async def echo():
            await asyncio.sleep(0)
            return value

        return echo()


class Unsendable:
    """Can come, and not go."""

    def __reduce__(self):
        if current_actor():
            raise TypeError("stays here")
        return Unsendable, ()


class Hooks:
    def __init__(self, log, watched):
        self.log = log
        self.watched = watched
        self.noted = []

    async def on_start(self):
        await asyncio.sleep(0)
        watch(self.watched, self.ended)
        self.task = asyncio.get_running_loop().create_task(self.run_beside())
        self.noted.append("start")

    async def run_beside(self):
        """Runs on between the messages, to the end."""
        self.event = asyncio.Event()
        await self.event.wait()
        self.log.write_text("background ")

    async def ended(self, proxy, reason):
        await asyncio.sleep(0)
        self.noted.append(type(reason).__name__)

    def notes(self):
        return self.noted

    async def on_stop(self):
        self.event.set()
        await self.task
        self.log.write_text(self.log.read_text() + "stop")


class Beside:
    def __init__(self, log):
        self.log = log

    async def begin(self):
        self.task = asyncio.ensure_future(self.go_on())
        await asyncio.sleep(0)

    async def go_on(self):
        try:
            await asyncio.sleep(10 * LIMIT)
        except asyncio.CancelledError:
            self.log.write_text("cancelled")
            raise


def ask_elsewhere(proxy, found):
    async def main():
        return await asyncio.gather(*[ask(proxy.echo, i) for i in range(50)])

    found.put(asyncio.run(main()))


class CleansUpBadly(Recorder):
    """Has coroutines that do at their end what none should."""

    async def clean_up(self, how):
        self.note(how)
        try:
            await asyncio.sleep(LIMIT)
        finally:
            if how == "raise":
                raise ConnectionError("clean-up failed")
            if how == "stop":
                asyncio.get_running_loop().stop()
            sys.exit(3)

    async def clean_up_beside(self, how):
        self.task = asyncio.create_task(self.clean_up(how))
        await asyncio.sleep(0)


class TellsItself(Recorder):
    async def tell_itself(self, count):
        """Returns how many it has executed meanwhile."""
        for number in range(count):
            await tell(current_actor().proxy.note, number, b"x" * 600)
        return len(self.seen)

    async def tell_itself_in_a_thread(self, count):
        await asyncio.to_thread(self.enqueue_many, count)

    async def tell_itself_at_once(self, count):
        proxy = current_actor().proxy
        large = [tell(proxy.note, number, bytes(3000)) for number in range(count)]
        small = [tell(proxy.note, number, b"") for number in range(count, 2 * count)]
        await asyncio.gather(*large, *small)

    def count(self):
        return len(self.seen)


class Generating(Recorder):
    async def echo_soon(self, value):
        return value

    def generate(self):
        yield


class Farewell(Recorder):
    """Asks another one at its end."""

    def __init__(self, other, gate):
        super().__init__()
        self.other = other
        self.gate = gate

    async def echo_soon(self, value):
        return value

    async def on_stop(self):
        future = ask(self.other.echo)
        touch(f"{self.gate}.stopping")
        await future


class AsksLate(Recorder):
    """Has to do with somebody who has been closed."""

    def ask(self, proxy, gate):
        self.wait_for(gate)
        try:
            return ask(proxy.echo).result(LIMIT)
        except ActorError as error:
            return type(error).__name__

    def flood(self, proxy, gate):
        self.wait_for(gate)
        with contextlib.suppress(ActorError):
            for number in range(3000):
                proxy.note(number, b"x" * 100)
        return "ActorClosed"


class Wrapped(collections.abc.Coroutine):
    """A coroutine of another type, as other compilers make them."""

    def __init__(self, coroutine):
        self.coroutine = coroutine

    def send(self, value):
        return self.coroutine.send(value)

    def throw(self, *error):
        return self.coroutine.throw(*error)

    def close(self):
        return self.coroutine.close()

    def __await__(self):
        return self.coroutine.__await__()


class OfAnotherType(Recorder):
    def note_soon(self, value):
        return Wrapped(self._note_soon(value))

    async def _note_soon(self, value):
        await asyncio.sleep(0)
        self.note(value)


class LeavesUnsent(Recorder):
    """Runs an event loop of its own, which ends before there is room for what it asked."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def ask_in_a_loop(self, value):
        async def main():
            return ask(self.other.echo, value)

        return asyncio.run(main())


class LeavesUnsentInAThread(LeavesUnsent):
    async def echo_soon(self, value):
        return value

    def ask_in_a_loop(self, value):
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(super().ask_in_a_loop, value).result(LIMIT)
