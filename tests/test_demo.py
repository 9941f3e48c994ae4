from __future__ import annotations

import builtins
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

from pactor.__main__ import main
from pactor._monitors import MONITORS, Aggregator, Cpu, Load, Memory, Network

PYTHON = [sys.executable, "-W", "error"]
DEMO = [*PYTHON, "-m", "pactor"]
NAMES = {monitor.name for monitor in MONITORS}
LINE = re.compile(r"\d\d:\d\d:\d\d  (\w+) +(?:n/a|\d+\.\d+(?: \S+)?)  pid (\d+)")
# In seconds, with room for a machine that has other things to do.
SOON, EVENTUALLY = 3.0, 20.0

pytestmark = pytest.mark.timeout(60)


class Terminal:
    """The demo on a pseudo-terminal of its own, seen through what it writes there."""

    # The terminal has to be the controlling one: only then is Ctrl-C a signal.
    LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        try:
            self.master, self.slave = pty.openpty()
        except OSError as error:
            pytest.skip(f"no pseudo-terminals here: {error}")
        self.resize(columns)
        self.settings = termios.tcgetattr(self.slave)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", self.LAUNCH, *DEMO, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "", **environment},
        )

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, condition: Callable[[], bool], limit: float = EVENTUALLY) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, self.text
            if select.select([self.master], [], [], 0.02)[0]:
                self.written += os.read(self.master, 65536)

    def ends(self, limit: float = EVENTUALLY) -> int:
        self.until(lambda: self.process.poll() is not None, limit)
        self.until(lambda: not select.select([self.master], [], [], 0)[0])
        return self.process.returncode

    @property
    def text(self) -> str:
        return self.written.decode(errors="replace")

    @property
    def frame(self) -> list[str]:
        """The lines of the last table that was drawn completely, over the whole height."""
        frames = [plain_lines(frame) for frame in self.text.split("\x1b[H")]
        return next((lines for lines in reversed(frames) if len(lines) == 24), [])

    @property
    def pids(self) -> dict[str, int]:
        """The process of each monitor that the table shows a reading of."""
        cells = [line.split() for line in self.frame]
        return {cell[0]: int(cell[-1]) for cell in cells if len(cell) > 3 and cell[0] in NAMES}

    def shows_all(self) -> bool:
        return self.pids.keys() == NAMES

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def piped(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str], IO[str]]]:
    """The demo, and what it reads, writes, and complains."""
    with subprocess.Popen(
        [*DEMO, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdin and demo.stdout and demo.stderr
        yield demo, demo.stdin, demo.stdout, demo.stderr


def plain_lines(text: str) -> list[str]:
    return re.split(r"\r+\n", re.sub(r"\x1b\[[0-9;]*[mK]", "", text))


def lines(output: str) -> list[tuple[str, int]]:
    """The monitor and the process id of each line."""
    matches = [LINE.fullmatch(line) for line in output.splitlines()]
    assert all(matches), output
    return [(match[1], int(match[2])) for match in matches if match]


def test_table_shows_each_monitor_in_a_process_of_its_own() -> None:
    with Terminal("--interval", "0.1") as demo:
        demo.until(demo.shows_all)
        pids = demo.pids
        assert len({*pids.values(), demo.process.pid}) == len(NAMES) + 1
        assert re.search("\x1b\\[3[1-6]m[▁▂▃▄▅▆▇█]", demo.text)
        os.kill(pids["cpu"], signal.SIGKILL)
        demo.until(lambda: ["cpu", "ended"] in [line.split()[:2] for line in demo.frame])
        os.write(demo.master, b"Q")
        assert demo.ends() == 0
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("end", "code"), [(b"q", 0), (b"\x03", 130), (signal.SIGTERM, 143)], ids=["q", "Ctrl-C", "SIGTERM"]
)
def test_terminal_is_as_it_was_soon_after(end: bytes | signal.Signals, code: int) -> None:
    with Terminal("--interval", "30") as demo:
        demo.until(demo.shows_all)
        assert termios.tcgetattr(demo.slave) != demo.settings
        if isinstance(end, bytes):
            os.write(demo.master, end)
        else:
            demo.process.send_signal(end)
        assert demo.ends(limit=SOON) == code
        assert termios.tcgetattr(demo.slave) == demo.settings
        # The cursor is back, so is the screen, and nothing comes behind that, least of all a traceback.
        assert demo.text.endswith("\x1b[?25h\x1b[?1049l")


def test_table_follows_the_size_of_the_window_and_honours_no_color() -> None:
    with Terminal(columns=100, NO_COLOR="1") as demo:
        demo.until(demo.shows_all)
        assert max(map(len, demo.frame)) > 80
        demo.resize(20)
        demo.until(lambda: max(map(len, demo.frame)) <= 20)
        assert {line.split()[0] for line in demo.frame if line.strip()} >= NAMES
        demo.resize(60)
        demo.until(lambda: 40 < max(map(len, demo.frame)) <= 60)
        os.write(demo.master, b"\x04")  # Ctrl-D, the end of input
        assert demo.ends() == 0
        assert not re.search(r"\x1b\[[0-9;]*m", demo.text)


def test_count_ends_it_and_leaves_the_table() -> None:
    with Terminal("--interval", "0.05", "--count", "3") as demo:
        assert demo.ends() == 0
        left = plain_lines(demo.text.rpartition("\x1b[?1049l")[2].strip())
        assert [line.split()[0] for line in left] == ["latest", *(monitor.name for monitor in MONITORS)]


def test_terminal_that_can_do_nothing_gets_lines() -> None:
    with Terminal("--count", "1", TERM="dumb") as demo:
        assert demo.ends() == 0
        assert {name for name, _ in lines(demo.text)} == NAMES


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_without_a_terminal_each_monitor_is_heard_before_the_end_of_input_ends_it(method: str) -> None:
    program = f"import multiprocessing as m; m.set_start_method({method!r}); import pactor.__main__ as p; p.main([])"
    command = [*PYTHON, "-c", program]
    demo = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=EVENTUALLY)
    assert (demo.returncode, demo.stderr) == (0, "")
    readings = lines(demo.stdout)
    assert dict(readings).keys() == NAMES
    assert len({pid for _, pid in readings}) == len(NAMES)


def test_count_ends_it_though_a_monitor_was_killed() -> None:
    with piped("--interval", "0.5", "--count", "5") as (demo, _, output, _):
        name, pid = lines(output.readline())[0]
        os.kill(pid, signal.SIGKILL)
        counts = Counter(name for name, _ in lines(output.read()))
        assert counts.pop(name, 0) < 4
        assert counts == dict.fromkeys(NAMES - {name}, 5)
        assert demo.wait(EVENTUALLY) == 0


@pytest.mark.parametrize(("end", "code"), [("q", 0), ("", 0), (None, 130)], ids=["q", "end of input", "Ctrl-C"])
def test_lines_go_on_until(end: str | None, code: int) -> None:
    with piped("--interval", "0.05") as (demo, keys, output, errors):
        for _ in range(3 * len(NAMES)):
            assert output.readline()
        if end is None:
            os.killpg(demo.pid, signal.SIGINT)
        else:
            keys.write(end)
            keys.close()
        assert errors.read() == ""
        assert demo.wait(EVENTUALLY) == code


def test_reader_that_goes_away_is_no_error() -> None:
    with piped("--interval", "0.05") as (demo, _, output, errors):
        assert output.readline()
        output.close()
        assert errors.read() == ""
        assert demo.wait(EVENTUALLY) == 0


@pytest.mark.parametrize(
    "arguments",
    [["--interval", "0"], ["--interval", "nan"], ["--interval", "soon"], ["--count", "0"], ["--count", "1.5"]],
    ids=" ".join,
)
def test_option_that_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"pactor: error: argument {arguments[0]}: ") and arguments[1] in error


@pytest.mark.parametrize(("option", "text"), [("--help", "SECONDS"), ("--version", "pactor ")])
def test_option_that_tells_about_the_program(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([option])
    assert text in capsys.readouterr().out


def test_monitor_sends_itself_the_next_reading_until_it_has_all() -> None:
    aggregator = Aggregator(["load"])
    monitor = Load(aggregator, interval=0.5, count=2)
    later: list[tuple[Any, ...]] = []
    vars(monitor)["enqueue_later"] = lambda *message: later.append(message)
    monitor.start()
    assert later == [(0.1, monitor.run)]
    monitor.run()
    assert later[1:] == [(0.5, monitor.run)]
    monitor.run()
    assert len(later) == 2
    assert aggregator.rows()[0].count == 2


def test_aggregator_knows_what_is_new() -> None:
    aggregator = Aggregator(["load"])
    readings = [Load(aggregator).read() for _ in range(3)]
    for reading in readings[:2]:
        aggregator.record(reading)
    assert aggregator.since(0) == (2, readings[:2])
    aggregator.record(readings[2])
    assert aggregator.since(2) == (3, readings[2:])
    assert aggregator.since(3) == (3, [])


def test_without_proc_there_are_other_ways_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(builtins, "open", no_proc)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.25, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 1, "SC_PHYS_PAGES": 4}.__getitem__)
    readings = [monitor(Aggregator([])).read() for monitor in (Cpu, Memory, Network)]
    assert [reading.text for reading in readings] == ["12.5 %", "75.0 %", "n/a"]
    assert readings[2].value is None


def test_network_speaks_for_humans() -> None:
    texts = [Network(Aggregator([])).text(value) for value in (0, 999.94, 999.96, 2.5e6, 4e12)]
    assert texts == ["0.0 B/s", "999.9 B/s", "1.0 kB/s", "2.5 MB/s", "4000.0 GB/s"]


def test_growth_is_what_came_since_the_last_look() -> None:
    monitor = Network(Aggregator([]))
    assert monitor.growth(100, 10) == 10
    assert monitor.growth(160, 12) == 30
    assert monitor.growth(170, 12) == 0, "no time has gone by"
    assert monitor.growth(20, 14) == 0, "the counter began anew"
