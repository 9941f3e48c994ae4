"""Monitors take readings of this machine, each in a process of its own, and tell them to an aggregator.

A monitor sends itself the message that makes it take the next reading, so that it can be told other things meanwhile.
"""

import os
import shutil

from pactor import Actor, Mailbox, ask


class Monitor:
    def __init__(self, aggregator):
        self.aggregator = aggregator

    def watch(self, times):
        self.aggregator.record(type(self).__name__, self.measure(), os.getpid())
        if times > 1:
            self.enqueue_later(0.2, self.watch, times - 1)


class Load(Monitor):
    def measure(self):
        return os.getloadavg()[0]


class Disk(Monitor):
    def measure(self):
        disk = shutil.disk_usage("/")
        return 100 * disk.used / disk.total


class Aggregator:
    def __init__(self, news):
        self.news = news
        self.readings = {}

    def record(self, monitor, value, pid):
        self.readings.setdefault(monitor, []).append(value)
        self.news.put(f"{monitor} {value:.2f}, says process {pid}")

    def highest(self):
        return {monitor: max(values) for monitor, values in self.readings.items()}


if __name__ == "__main__":
    news = Mailbox()
    with (
        Actor(Aggregator(news)) as aggregator,
        Actor(Load(aggregator.proxy)) as load,
        Actor(Disk(aggregator.proxy)) as disk,
    ):
        load.proxy.watch(times=4)
        disk.proxy.watch(times=4)
        for _ in range(8):
            print(news.get(timeout=30))
        for monitor, value in ask(aggregator.proxy.highest).result(timeout=30).items():
            print(f"{monitor} was {value:.2f} at most")
