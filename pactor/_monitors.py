"""Actors that watch this machine: what ``python -m pactor`` shows, and an example to start from.

A monitor reads one number, tells it to the aggregator, and sends itself the message that makes it read the next::

    with Actor(Aggregator(["cpu"])) as aggregator:
        with Actor(Cpu(aggregator.proxy, interval=0.5)) as cpu:
            cpu.proxy.start()
            time.sleep(5)
            print(ask(aggregator.proxy.rows).result())

These are plain classes. None of them knows of processes: it is `Actor` that gives each object one of its own.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import EnqueueLater


@dataclass(frozen=True)
class Reading:
    """What a monitor saw: a value, None if this machine has no such thing, and the same for humans."""

    monitor: str
    value: float | None
    text: str
    full: float | None
    pid: int
    time: float


@dataclass
class Row:
    """What the aggregator knows about one monitor: a line of the table."""

    monitor: str
    latest: Reading | None = None
    count: int = 0
    history: deque[float | None] = field(default_factory=lambda: deque(maxlen=500))


class Aggregator:
    """Remembers what the monitors tell it."""

    def __init__(self, monitors: Iterable[str]) -> None:
        self.table = {name: Row(name) for name in monitors}
        self.recent: deque[Reading] = deque(maxlen=5000)
        self.count = 0

    def record(self, reading: Reading) -> None:
        row = self.table[reading.monitor]
        row.latest = reading
        row.count += 1
        row.history.append(reading.value)
        self.recent.append(reading)
        self.count += 1

    def rows(self) -> list[Row]:
        """Everything, a row a monitor."""
        return list(self.table.values())

    def since(self, count: int) -> tuple[int, list[Reading]]:
        """How many readings there were by now, and those behind the first `count`."""
        new = self.count - count
        return self.count, list(self.recent)[-new:] if new else []


class Monitor:
    """Takes a reading every `interval` seconds, `count` times. A subclass says of what: see `Load`."""

    name: str
    #: The value that fills a bar of the history; None: the greatest there is.
    full: float | None = 100.0
    #: Injected by `Actor`: a message to itself, to be executed after some seconds.
    enqueue_later: EnqueueLater

    def __init__(self, aggregator: Aggregator, interval: float = 1.0, count: float = math.inf) -> None:
        self.aggregator = aggregator
        self.interval = interval
        self.left = count
        self.before = (0.0, 0.0)

    def start(self) -> None:
        """Begins. A rate needs two looks at its counter: this is the first, and nobody is told of it."""
        self.read()
        self.enqueue_later(min(self.interval, 0.1), self.run)

    def run(self) -> None:
        self.aggregator.record(self.read())
        self.left -= 1
        if self.left > 0:
            self.enqueue_later(self.interval, self.run)

    def read(self) -> Reading:
        try:
            value = self.measure()
            text = self.text(value)
        except (ArithmeticError, LookupError, OSError, ValueError):
            value, text = None, "n/a"
        return Reading(self.name, value, text, self.full, os.getpid(), time.time())

    def measure(self) -> float:
        raise NotImplementedError

    def text(self, value: float) -> str:
        return f"{value:.1f} %"

    def growth(self, y: float, x: float) -> float:
        """How much `y` grew for each unit of `x` since the last look."""
        (old_y, old_x), self.before = self.before, (y, x)
        return max(0.0, (y - old_y) / (x - old_x)) if x > old_x else 0.0


class Load(Monitor):
    """Processes that run or would like to, a minute's average."""

    name = "load"
    full = float(os.cpu_count() or 1)

    def measure(self) -> float:
        return os.getloadavg()[0]

    def text(self, value: float) -> str:
        return f"{value:.2f}"


class Cpu(Monitor):
    """The share of time in which the processors were busy."""

    name = "cpu"

    def measure(self) -> float:
        try:
            with open("/proc/stat") as stat:
                ticks = [int(number) for number in stat.readline().split()[1:9]]
        except OSError:
            return min(100.0, 100 * os.getloadavg()[0] / (os.cpu_count() or 1))
        idle = ticks[3] + ticks[4]
        return 100 * self.growth(sum(ticks) - idle, sum(ticks))


class Memory(Monitor):
    """The share of memory that is in use and could not be had at once."""

    name = "memory"

    def measure(self) -> float:
        try:
            with open("/proc/meminfo") as meminfo:
                sizes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo}
            free, total = sizes["MemAvailable"], sizes["MemTotal"]
        except (LookupError, OSError):
            free, total = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PHYS_PAGES")
        return 100 * (1 - free / total)


class Disk(Monitor):
    """How full the root file system is."""

    name = "disk"

    def measure(self) -> float:
        disk = shutil.disk_usage("/")
        return 100 * disk.used / (disk.used + disk.free)


class Network(Monitor):
    """Bytes a second, both ways, of every interface but the loopback."""

    name = "network"
    full = None

    def measure(self) -> float:
        with open("/proc/net/dev") as dev:
            interfaces = [line.replace(":", " ").split() for line in dev.readlines()[2:]]
        total = sum(int(each[1]) + int(each[9]) for each in interfaces if each[0] != "lo")
        return self.growth(total, time.monotonic())

    def text(self, value: float) -> str:
        for unit in ("B/s", "kB/s", "MB/s"):
            if value < 999.95:
                return f"{value:.1f} {unit}"
            value /= 1000
        return f"{value:.1f} GB/s"


MONITORS: list[type[Monitor]] = [Load, Cpu, Memory, Disk, Network]
