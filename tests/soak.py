"""A soak: actors are killed, stopped, flooded, closed and replaced at random for minutes, and nothing may go wrong.

    PYTHONPATH=. python tests/soak.py        a minute
    PYTHONPATH=. python tests/soak.py 600    ten

What may not happen: a message is executed twice or out of order, an ask hangs, more is lost than what was executing,
or memory, descriptors, processes or files grow. It prints a line every so often, and exits with 1 where that failed.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import itertools
import math
import multiprocessing
import os
import pathlib
import random
import signal
import struct
import sys
import tempfile
import threading
import time

from pactor import Actor, ActorDied, ActorError, Restart, _runtime, ask

ACTORS, SENDERS, ASKERS = 5, 4, 2
HANG = 60  # seconds
RECORD = struct.Struct("<QQ")
SIZES = [0] * 200 + [4_000, 4_080, 4_093, 10_000, 100_000] * 2 + [3_000_000]


class Ledger:
    """Writes down what it executes, where it outlives the process."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, sender, number, payload):
        os.write(self.fd, RECORD.pack(sender, number))

    def echo(self, payload):
        return payload

    def fail(self):
        raise ValueError("as was to be")


class Books:
    """Reads what one ledger wrote, and checks it."""

    def __init__(self, path):
        self.path = path
        self.offset = 0
        self.last = collections.defaultdict(lambda: -1)
        self.count = 0

    def check(self):
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read()
        data = data[: len(data) - len(data) % RECORD.size]
        self.offset += len(data)
        for sender, number in RECORD.iter_unpack(data):
            assert number > self.last[sender], f"{number} after {self.last[sender]} of sender {sender}"
            self.last[sender] = number
            self.count += 1


@contextlib.contextmanager
def room():
    """A flood may fill a small /dev/shm: then the sender is told, nothing was sent, and it waits a little."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        time.sleep(0.1)


def send(sender, proxies):
    """Sends to all of them at random, in floods and alone, until it is killed or they are gone."""
    numbers = collections.Counter()
    with contextlib.suppress(ActorError):
        while True:
            i = random.randrange(len(proxies))
            with room():
                for _ in range(random.choice([1, 10, 1000])):
                    proxies[i].note(sender, numbers[i], bytes(random.choice(SIZES)))
                    numbers[i] += 1
            time.sleep(random.random() * 0.02)


def ask_in_turn(sender, proxy):
    """Asks one that has nothing else to do, each time when the last reply is there, until it is killed or that is gone.

    So these go through a lane.
    """
    with contextlib.suppress(ActorError):
        for number in itertools.count():
            future = ask(proxy.note, sender, number, b"")
            with contextlib.suppress(ActorDied):  # it is restarted
                future.result(HANG)


class Soak:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.numbers = iter(range(1 << 30))
        self.actors, self.books, self.senders = [], [], []
        self.events = collections.Counter()
        self.over = threading.Event()
        self.failures = []

    def run(self, seconds):
        for _ in range(ACTORS):
            self.add_actor()
        askers = [threading.Thread(target=self.guard, args=(self.keep_asking,)) for _ in range(ASKERS)]
        for asker in askers:
            asker.start()
        began = time.monotonic()
        self.guard(self.shake, began, seconds)
        self.over.set()
        for asker in askers:
            asker.join(2 * HANG)
            if asker.is_alive():
                self.failures.append("an ask hangs")
        for sender in self.senders:
            sender.kill()
            sender.join()
        for actor in self.actors:
            actor.close()
        for actor in self.actors:
            if not actor.join(HANG):
                self.failures.append(f"{actor} does not end")
                actor.kill()
        self.guard(self.check)
        return self.failures

    def guard(self, function, *arguments):
        try:
            function(*arguments)
        except BaseException as error:
            self.failures.append(f"{function.__name__}: {type(error).__name__}: {error}")
            self.over.set()

    def shake(self, began, seconds):
        acts = (
            [self.kill] * 6 + [self.stop] * 2 + [self.fail] * 2 + [self.replace_sender, self.replace_actor, self.brief]
        )
        first, reported = None, began
        while (now := time.monotonic()) < began + seconds and not self.over.is_set():
            while len(self.senders) < SENDERS:
                self.add_sender()
            act = random.choice(acts)
            self.events[act.__name__] += 1
            act()
            time.sleep(random.random() * 0.1)
            if now - reported > seconds / 12:
                reported = now
                self.check()
                used = self.used()
                self.report(now - began, used)
                if first is None and now - began > seconds / 6:
                    first = used
        if first:
            grown = {key: (first[key], used[key]) for key in first if used[key] > first[key] * 1.5 + GROWTH[key]}
            assert not grown, f"grown: {grown}"

    def report(self, now, used):
        notes = sum(book.count for book in self.books)
        events = ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        print(f"{now:4.0f} s: {notes} messages; {events}; {used}", flush=True)

    def check(self):
        for book in self.books:
            book.check()

    def used(self):
        with open("/proc/self/statm") as file:
            memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
        files = sum(len(names) for _, _, names in os.walk(_runtime.home().path))
        return {"MB": memory, "descriptors": len(os.listdir("/proc/self/fd")), "files": files}

    # What happens to them.

    def add_actor(self):
        path = self.directory / f"ledger-{next(self.numbers)}"
        path.touch()
        policy = Restart(math.inf, within=1.0, backoff=0.001, max_backoff=0.05)
        self.actors.append(Actor(functools.partial(Ledger, path), on_failure=policy))
        self.books.append(Books(path))

    def add_sender(self):
        *others, quiet = [actor.proxy for actor in self.actors]
        if any(sender.name == "asker" for sender in self.senders):
            sender = multiprocessing.Process(target=send, args=(next(self.numbers), others))
        else:
            sender = multiprocessing.Process(target=ask_in_turn, args=(next(self.numbers), quiet), name="asker")
        sender.start()
        self.senders.append(sender)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(self.actors).pid, signal.SIGKILL)

    def stop(self):
        pid = random.choice(self.actors).pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(random.random() * 0.2)
            os.kill(pid, signal.SIGCONT)

    def fail(self):
        random.choice(self.actors).proxy.fail()

    def replace_sender(self):
        sender = self.senders.pop(random.randrange(len(self.senders)))
        sender.kill()
        sender.join()
        sender.close()

    def replace_actor(self):
        """Its senders end too, at their next message to it."""
        actor = self.actors.pop(0)
        actor.close()
        if not actor.join(HANG):
            raise TimeoutError(f"{actor} does not end")
        self.add_actor()
        while self.senders:
            self.replace_sender()

    def brief(self):
        """Actors that come and go."""
        with Actor(functools.partial(Ledger, os.devnull)) as actor:
            assert b"x" == ask(actor.proxy.echo, b"x").result(HANG)

    def keep_asking(self):
        while not self.over.is_set():
            payload = bytes(random.choice(SIZES))
            with contextlib.suppress(ActorError), room():
                assert payload == ask(random.choice(self.actors).proxy.echo, payload).result(HANG)
                self.events["answers"] += 1


#: How much more than at first is none too much.
GROWTH = {"MB": 50, "descriptors": 20, "files": 100}


def main():
    import logging

    logging.basicConfig(level=logging.CRITICAL)  # each kill is logged
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = random.randrange(1 << 32)
    random.seed(seed)
    print("seed", seed, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        failures = Soak(directory).run(seconds)
    print("\n".join(failures) or "nothing went wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
