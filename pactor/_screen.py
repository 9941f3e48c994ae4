"""Drawing on a terminal: `table` makes lines of rows, `draw` shows them, `taken_over` lends it and gives it back."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import FrameType

from ._monitors import Row

BARS = "▁▂▃▄▅▆▇█"
#: For a terminal whose encoding doesn't have those.
ASCII_BARS = "_.-=+*%#"

_PLAIN, _BOLD, _DIM, _RED, _GREEN, _YELLOW, _CYAN = "", "1", "2", "31", "32", "33", "36"
_STYLES = [_GREEN] * 4 + [_YELLOW] * 2 + [_RED] * 2  # one a bar

# The alternate screen, without cursor and without wrapping at the right margin; and back.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

Piece = tuple[str, str]  # a text and its style


def bars_for(encoding: str) -> str:
    try:
        BARS.encode(encoding)
    except UnicodeEncodeError:
        return ASCII_BARS
    return BARS


def sparkline(values: Iterable[float | None], width: int, full: float | None = None, bars: str = BARS) -> str:
    """The last `width` values as bars, the newest at the right. None, and what is not there yet, is a blank.

    `full` is the value of the longest bar, unless there is a greater one.
    """
    last = list(values)[-width:] if width > 0 else []
    top = max([full or 0.0, *(value for value in last if value is not None)]) or 1.0
    heights = (None if value is None else min(int(value / top * len(bars)), len(bars) - 1) for value in last)
    return "".join(" " if height is None else bars[height] for height in heights).rjust(width)


def table(
    rows: Sequence[Row],
    width: int,
    height: int,
    *,
    ended: Container[str] = (),
    colour: bool = False,
    bars: str = BARS,
    title: str = "",
    footer: str = "",
) -> list[str]:
    """At most `height` lines of at most `width` columns. `ended` names the monitors that tell nothing any more.

    A narrow window does without the process ids, a narrower one without the counts, and then without the histories.
    A low one does without title and footer, then without the heading, and at last some rows are missing.
    """
    margin = " " if width >= 40 else ""
    name_width = max((len(row.monitor) for row in rows), default=0)
    count_width = max([5, *(len(str(row.count)) for row in rows)])
    for tail_widths in ([count_width, 7], [count_width], []):
        room = width - 2 * len(margin) - name_width - 13 - sum(each + 2 for each in tail_widths)
        if room >= 8:
            break

    def line(name: Piece, latest: Piece, history: Iterable[Piece], *tail: object) -> str:
        pieces = [(f"{margin}{name[0]:<{name_width}} ", name[1]), (f"{latest[0]:>10}", latest[1])]
        if room >= 4:
            pieces += [("  ", _PLAIN), *history]
        pieces += [(f"  {cell!s:>{each}}", _DIM) for cell, each in zip(tail, tail_widths, strict=False)]
        return _styled(pieces, width, colour)

    heading = line(("", _DIM), ("latest", _DIM), [("history".ljust(room)[:room], _DIM)], "count", "pid")
    body = []
    for row in rows:
        latest = (row.latest.text if row.latest else "", _BOLD)
        if row.monitor in ended:
            latest = ("ended", _RED)
        pid = row.latest.pid if row.latest else ""
        body.append(line((row.monitor, _PLAIN), latest, _history(row, room, bars), row.count, pid))
    if height <= len(body):
        return body[:height]
    if height < len(body) + 5:
        return [heading, *body]
    around = [_styled([(margin + text, style)], width, colour) for text, style in ((title, _BOLD), (footer, _DIM))]
    return [around[0], "", heading, *body, "", around[1]]


def _history(row: Row, width: int, bars: str) -> Iterator[Piece]:
    full = row.latest.full if row.latest else None
    for bar, run in groupby(sparkline(row.history, width, full, bars)):
        # Without a scale of its own a high value is not a bad sign.
        yield "".join(run), _PLAIN if bar == " " else _STYLES[bars.index(bar)] if full else _CYAN


def _styled(pieces: Iterable[Piece], width: int, colour: bool) -> str:
    """The pieces as one line. It is cut before the styles come in, which have no width."""
    line = ""
    for text, style in pieces:
        text, width = text[:width], width - len(text[:width])
        line += f"\x1b[{style}m{text}\x1b[m" if colour and style and text else text
    return line


def pressed(timeout: float, *wakeups: int) -> bytes | None:
    """What standard input brings within `timeout` seconds; None is nothing, empty its end.

    A byte from one of the descriptors `wakeups` ends the wait.
    """
    stdin = sys.stdin.fileno()
    try:
        ready, _, _ = select.select([stdin, *wakeups], [], [], timeout)
        for wakeup in set(wakeups).intersection(ready):
            os.read(wakeup, 512)
        return os.read(stdin, 512) if stdin in ready else None
    except OSError:  # a terminal that has gone
        return b""


def size() -> tuple[int, int]:
    """Columns and lines of the terminal, which may not know."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns or 80, lines or 24


def draw(lines: Sequence[str]) -> None:
    """Shows the lines, and nothing else, on the terminal that `taken_over` took."""
    height = size()[1]
    # Erased before it is written: behind a line that reaches the margin, erasing would take its last character.
    _write("\x1b[H" + "\r\n".join("\x1b[K" + line for line in [*lines, *[""] * height][:height]))


def _write(text: str) -> None:
    # Not print: a signal's handler writes too, and Python's buffers can't be entered twice.
    data = text.encode(sys.stdout.encoding, "replace")
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextmanager
def taken_over() -> Iterator[int]:
    """Takes the whole terminal, keys come one by one, and gives it back as it was. Ctrl-Z gives it back too.

    The descriptor that it yields is for `pressed`, to be awake when the terminal has another size.
    """
    settings = termios.tcgetattr(sys.stdin)

    def take() -> None:
        tty.setcbreak(sys.stdin, termios.TCSANOW)
        _write(_ENTER)

    def give_back() -> None:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, settings)
        _write(_LEAVE)

    def suspend(number: int, _: FrameType | None) -> None:
        give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, suspend)
        take()

    wakeup, signalled = os.pipe()
    os.set_blocking(signalled, False)
    old = {number: signal.getsignal(number) for number in (signal.SIGWINCH, signal.SIGTSTP)}
    # A signal that has a handler, even an idle one, puts a byte into this pipe.
    old_wakeup = signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    try:
        signal.signal(signal.SIGWINCH, lambda *_: None)
        signal.signal(signal.SIGTSTP, suspend)
        take()
        yield wakeup
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        give_back()
        signal.set_wakeup_fd(old_wakeup)
        os.close(wakeup)
        os.close(signalled)
