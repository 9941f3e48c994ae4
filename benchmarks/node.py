"""What an actor does in the workloads, whatever the system. Modelled on the Savina suite of actor benchmarks.

The moment at which the last message came is read from the monotonic clock where it came: on Linux that is one clock for
all processes. So no system pays for telling the benchmark that it has finished.
"""

from __future__ import annotations

import time


class Node:
    """The systems derive their actor from it."""

    def __init__(self):
        self.expected = self.counted = 0
        self.weight = self.at = 0.0

    def sender(self, other, method):
        """A function that tells the other actor the method."""
        raise NotImplementedError

    def expect(self, count):
        self.expected, self.counted, self.at = count, 0, 0.0

    def count(self, _value):
        self.counted += 1
        if self.counted == self.expected:
            self.at = time.monotonic()

    def weigh(self, array):
        # Looks at each page: whoever maps the array, instead of copying it, pays for a page only then.
        self.weight += array[::512].sum()
        self.count(array)

    def produce(self, consumer, count):
        send = self.sender(consumer, "count")
        for number in range(count):
            send(number)

    def link(self, follower):
        self.forward = self.sender(follower, "hop")
        self.at = 0.0

    def hop(self, left):
        if left:
            self.forward(left - 1)
        else:
            self.at = time.monotonic()

    def finished(self):
        """The moment at which the last message came; 0 as long as it has not."""
        return self.at

    def echo(self, value):
        return value
