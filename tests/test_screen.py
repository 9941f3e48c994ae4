from __future__ import annotations

import re
from collections import deque

import pytest

from pactor._monitors import Reading, Row
from pactor._screen import ASCII_BARS, BARS, bars_for, sparkline, table


def row(monitor: str, text: str, values: list[float | None], full: float | None = 100.0, pid: int = 4711) -> Row:
    reading = Reading(monitor, values[-1], text, full, pid, 0.0)
    return Row(monitor, reading, len(values), deque(values))


ROWS = [
    row("load", "0.42", [0.1, 0.2, 0.42], full=4.0, pid=101),
    row("cpu", "97.5 %", [2.0, 50.0, 97.5], pid=102),
    row("battery", "n/a", [None, None, None], pid=103),
    row("network", "999.9 MB/s", [0.0, 1e6, 999.9e6], full=None, pid=4194304),
    Row("disk"),
]


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.mark.parametrize(
    ("values", "width", "full", "expected"),
    [
        ([0, 100], 2, 100.0, "▁█"),
        ([1, 2], 4, 8.0, "  ▂▃"),
        ([8, 1, 2, 3], 2, 8.0, "▃▄"),
        ([1, None, 2], 3, 8.0, "▂ ▃"),
        ([1, 2, 4], 3, None, "▃▅█"),
        ([1, 16], 2, 8.0, "▁█"),
        ([0, 0], 2, None, "▁▁"),
        ([None], 1, None, " "),
        ([], 3, 100.0, "   "),
        ([1], 0, 100.0, ""),
    ],
    ids=[
        "nothing and all",
        "blank where there is no value yet",
        "only the newest",
        "blank for None",
        "scaled to the greatest",
        "scaled to one that is over the top",
        "zeros",
        "only None",
        "empty",
        "no room",
    ],
)
def test_sparkline(values: list[float | None], width: int, full: float | None, expected: str) -> None:
    assert sparkline(values, width, full) == expected


def test_sparkline_can_do_without_unicode() -> None:
    assert sparkline([0, 50, 100], 3, 100.0, ASCII_BARS) == "_+#"
    assert [bars_for(encoding) for encoding in ("utf-8", "ascii", "latin-1")] == [BARS, ASCII_BARS, ASCII_BARS]


def test_table_shows_value_history_count_and_process_id_of_each_monitor() -> None:
    lines = [line.rstrip() for line in table(ROWS, 60, 20, title="title", footer="footer")]
    assert lines == [
        " title",
        "",
        "             latest  history                 count      pid",
        " load          0.42                     ▁▁▁      3      101",
        " cpu         97.5 %                     ▁▅█      3      102",
        " battery        n/a                              3      103",
        " network 999.9 MB/s                     ▁▁█      3  4194304",
        " disk                                            0",
        "",
        " footer",
    ]


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (60, ["latest", "history", "count", "pid"]),
        (40, ["latest", "history", "count"]),
        (30, ["latest", "history"]),
        (20, ["latest"]),
    ],
)
def test_narrow_table_does_without_the_less_important_columns(width: int, columns: list[str]) -> None:
    assert table(ROWS, width, 6)[0].split() == columns


def test_low_table_does_without_everything_but_rows() -> None:
    def first_words(height: int) -> list[str]:
        return [" ".join(line.split()[:1]) for line in table(ROWS, 60, height, title="title", footer="footer")]

    monitors = ["load", "cpu", "battery", "network", "disk"]
    assert first_words(10) == ["title", "", "latest", *monitors, "", "footer"]
    assert first_words(9) == ["latest", *monitors]
    assert first_words(5) == monitors
    assert first_words(2) == ["load", "cpu"]


@pytest.mark.parametrize("colour", [False, True])
def test_table_never_exceeds_the_window(colour: bool) -> None:
    for width in [*range(1, 60), 80, 200]:
        for height in (1, 4, 6, 10, 20):
            lines = table(ROWS, width, height, colour=colour, title="a title", footer="a footer")
            assert len(lines) <= height
            assert max(len(plain(line)) for line in lines) <= width


def test_colour_changes_nothing_but_the_colour() -> None:
    for width in (20, 40, 80):
        coloured = table(ROWS, width, 10, colour=True, title="title", footer="footer")
        monochrome = table(ROWS, width, 10, title="title", footer="footer")
        assert [plain(line) for line in coloured] == monochrome
        assert coloured != monochrome
        assert "\x1b" not in "".join(monochrome)


def test_colour_tells_how_near_to_its_full_scale_a_value_was() -> None:
    line = table([row("cpu", "97.5 %", [2.0, 60.0, 97.5])], 60, 1, colour=True)[0]
    assert "\x1b[32m▁\x1b[m\x1b[33m▅\x1b[m\x1b[31m█\x1b[m" in line


def test_table_tells_who_ended() -> None:
    lines = [line.split()[:2] for line in table(ROWS, 60, 5, ended={"cpu"})]
    assert lines[:2] == [["load", "0.42"], ["cpu", "ended"]]


def test_table_without_rows_is_possible() -> None:
    assert table([], 60, 20, title="title")[0] == " title"
