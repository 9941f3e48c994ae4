"""A rate limiter: so many calls a second for all who share it, by a timer of the actor's own."""

import collections
import concurrent.futures
import time

from pactor import Actor, ask


class RateLimiter:
    """Lets `rate` callers a second pass, in the order in which they came."""

    def __init__(self, rate):
        self.interval = 1 / rate
        self.waiting = collections.deque()
        self.is_busy = False

    def acquire(self):
        """Replies when it is the caller's turn: the reply is a future."""
        turn = concurrent.futures.Future()
        self.waiting.append(turn)
        if not self.is_busy:
            self.let_pass()
        return turn

    def let_pass(self):
        self.is_busy = bool(self.waiting)
        if self.is_busy:
            self.waiting.popleft().set_result(time.monotonic())
            self.enqueue_later(self.interval, self.let_pass)


class Client:
    """Does something that must not be done too often."""

    def __init__(self, limiter):
        self.limiter = limiter

    def work(self, times):
        return [ask(self.limiter.acquire).result(timeout=30) for _ in range(times)]


if __name__ == "__main__":
    with Actor(RateLimiter(rate=100)) as limiter:
        with Actor(Client(limiter.proxy)) as one, Actor(Client(limiter.proxy)) as other:
            both = [ask(client.proxy.work, 20) for client in (one, other)]
            passed = sorted(moment for times in both for moment in times.result(timeout=30))
        seconds = passed[-1] - passed[0]
        print(f"{len(passed)} calls at 100 a second took 0.39 seconds or more: {seconds >= 0.39}")
