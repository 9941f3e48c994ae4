"""A pipeline: each stage is an actor that knows the next one.

The last stage is slow. No more than `maxsize` messages wait in front of a stage; whoever would send one more waits. So
the whole pipeline goes as fast as its slowest stage, and nothing piles up anywhere.
"""

import time

from pactor import Actor, ask


class Square:
    def __init__(self, following):
        self.following = following

    def put(self, number):
        self.following.put(number * number)


class Store:
    def __init__(self):
        self.numbers = []

    def put(self, number):
        time.sleep(0.01)
        self.numbers.append(number)

    def total(self):
        return sum(self.numbers)


if __name__ == "__main__":
    with Actor(Store(), maxsize=4) as store:
        with Actor(Square(store.proxy), maxsize=4) as square:
            start = time.monotonic()
            for number in range(1, 101):
                square.proxy.put(number)
            print(f"sending took {time.monotonic() - start:.1f} seconds: a sender waits for the slowest stage")
        # Square has passed on all that it got. What Store got of it is before the ask.
        print(f"the squares of 1 to 100 add up to {ask(store.proxy.total).result(timeout=30)}")
