"""The first program of the README: an object in a process of its own."""

from pactor import Actor, ask


class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, n):
        self.value += n

    def total(self):
        return self.value


if __name__ == "__main__":
    with Actor(Counter(10)) as counter:  # it moves into a process of its own
        counter.proxy.add(5)  # a message: returns None at once
        print(ask(counter.proxy.total).result(timeout=5))  # a message with a reply
