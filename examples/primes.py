"""Work for all processors: fan out to several actors, and gather the replies as they come."""

import itertools
import os
from concurrent.futures import as_completed
from contextlib import ExitStack

from pactor import Actor, ask

LIMIT = 200_000
STEP = 10_000


class Worker:
    def count(self, start, stop):
        """Counts the primes from start up to, but not including, stop."""
        return sum(is_prime(n) for n in range(start, stop))


def is_prime(n):
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


if __name__ == "__main__":
    with ExitStack() as actors:
        workers = [
            actors.enter_context(Actor(Worker(), name=f"worker {i}")) for i in range(min(4, os.cpu_count() or 1))
        ]
        replies = [
            ask(worker.proxy.count, start, start + STEP)
            for start, worker in zip(range(0, LIMIT, STEP), itertools.cycle(workers))
        ]
        total = 0
        for done, reply in enumerate(as_completed(replies, timeout=60), 1):
            total += reply.result()
            print(f"{done} of {len(replies)} parts done, {total} primes so far")
    print(f"There are {total} primes below {LIMIT}.")
