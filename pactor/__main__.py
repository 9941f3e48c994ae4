"""``python -m pactor``: actors watch this machine. They live in `_monitors`; here they are wired up and shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

# Everything else is imported where it is needed: a process that the script `pactor` spawns imports this module too.
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from concurrent.futures import Future

    from . import Actor
    from ._monitors import Aggregator, Monitor, Row

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    import os
    import time

    from . import ActorError

    options = _options(argv)
    try:
        try:
            _run(options.interval, options.count)
        except ActorError:
            # Ctrl-C reaches the actors too, and their end may be noticed here before Ctrl-C itself.
            time.sleep(0.2)
            raise
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads on, as with `head`. What is buffered can go nowhere, and must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ActorError, OSError) as error:
        print(f"pactor: {error}", file=sys.stderr)
        return 1
    return 0


def _options(argv: Sequence[str] | None) -> Namespace:
    import argparse
    import math

    from . import __version__

    def interval(text: str) -> float:
        seconds = float(text)
        if not 0 < seconds <= 86400:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 86400")
        return seconds

    def count(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} is not at least 1")
        return int(text)

    parser = argparse.ArgumentParser(
        prog="pactor",
        description="Watches this machine with actors, each in a process of its own. Shows a live table on a terminal, "
        "and a line a reading elsewhere. It ends with q, Ctrl-C, or the end of input.",
    )
    every = "between two readings of a monitor (default: 1)"
    parser.add_argument("--interval", type=interval, default=1.0, metavar="SECONDS", help=every)
    enough = "end after N readings of each monitor (default: never)"
    parser.add_argument("--count", type=count, default=math.inf, metavar="N", help=enough)
    parser.add_argument("--version", action="version", version=f"pactor {__version__}")
    return parser.parse_args(argv)


def _run(interval: float, count: float) -> None:
    import os
    import signal
    from contextlib import ExitStack

    from . import Actor
    from ._monitors import MONITORS, Aggregator

    with ExitStack() as actors:
        aggregator = actors.enter_context(Actor(Aggregator([each.name for each in MONITORS]), name="aggregator"))
        monitors = [
            actors.enter_context(Actor(each(aggregator.proxy, interval, count), name=each.name)) for each in MONITORS
        ]
        for monitor in monitors:
            monitor.proxy.start()
        # As exceptions, so that the terminal is given back and the actors are closed.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, lambda number, _: sys.exit(128 + number))
        terminal = all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout))
        if terminal and os.environ.get("TERM", "dumb") != "dumb":
            _show_table(aggregator.proxy, monitors, count)
        else:
            _print_lines(aggregator.proxy, monitors, count)


def _show_table(aggregator: Aggregator, monitors: list[Actor[Monitor]], count: float) -> None:
    import os

    from . import __version__, ask
    from ._screen import bars_for, draw, pressed, size, table, taken_over

    rows: list[Row] = []

    def lines(width: int, height: int) -> list[str]:
        return table(
            rows,
            width,
            height,
            ended={each.name for each in monitors if not each.is_alive()},
            colour=not os.environ.get("NO_COLOR"),
            bars=bars_for(sys.stdout.encoding),
            title=f"pactor {__version__} on {os.uname().nodename}",
            footer="q quits. Each of these is an actor with a process of its own.",
        )

    with taken_over() as resized:
        while _goes_on(rows, monitors, count):
            rows = _answer(ask(aggregator.rows), rows)
            draw(lines(*size()))
            keys = pressed(0.25, resized)
            # Ctrl-D is the end of input; where keys come one by one it is a character.
            if keys is not None and (not keys or set(keys) & set(b"qQ\x04")):
                return
    # What was counted up to is worth keeping; the table has gone with its screen.
    print("\n".join(lines(size()[0], len(rows) + 1)))


def _print_lines(aggregator: Aggregator, monitors: list[Actor[Monitor]], count: float) -> None:
    import math
    import time

    from . import ask
    from ._screen import pressed

    rows: list[Row] = []
    printed = 0
    ended = math.inf if sys.stdin else time.monotonic()
    # At the end of input, which may be the beginning, each monitor is still heard once, if it says something soon.
    while _goes_on(rows, monitors, count if ended == math.inf else 1) and time.monotonic() < ended + 5:
        if ended < math.inf:
            time.sleep(0.05)
        else:
            keys = pressed(0.05)
            if keys and set(keys) & set(b"qQ"):
                return
            if keys == b"":
                ended = time.monotonic()
        rows = _answer(ask(aggregator.rows), rows)
        printed, readings = _answer(ask(aggregator.since, printed), (printed, []))
        for reading in readings:
            clock = time.strftime("%H:%M:%S", time.localtime(reading.time))
            print(f"{clock}  {reading.monitor:<7} {reading.text:>10}  pid {reading.pid}", flush=True)


def _goes_on(rows: list[Row], monitors: list[Actor[Monitor]], count: float) -> bool:
    """Whether a monitor has to be heard of that is still there to speak."""
    counts = {row.monitor: row.count for row in rows}
    return any(counts.get(each.name, 0) < count and each.is_alive() for each in monitors)


def _answer(future: Future[T], otherwise: T) -> T:
    """An aggregator that keeps us waiting does not keep `q` from being noticed."""
    from concurrent.futures import TimeoutError

    try:
        return future.result(timeout=0.5)
    except TimeoutError:
        return otherwise


if __name__ == "__main__":
    sys.exit(main())
