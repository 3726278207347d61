"""Progress fits a terminal of any width; elsewhere it is a line now and then."""

import ast
import fcntl
import io
import os
import pathlib
import pty
import struct
import termios
import time

import pytest

from fmalign_jax import progress, train
from fmalign_jax.progress import Bar

PACKAGE = pathlib.Path(progress.__file__).parent

VALUES = {
    "loss": 12.345,
    "loss/cross_cpc": 7.1,
    "loss/reconstruction": 0.2,
    "perplexity/current": 21.04,
    "perplexity/video": 23.1,
    "windows_per_s": 145.3,
}
SHOWN = ["loss 12.3", "perplexity current 21 video 23.1", "145 windows/s"]


def test_the_few_values_that_matter_are_shown():
    assert train.progress(VALUES) == SHOWN
    without_codes = {"loss": 0.5, "windows_per_s": 0.25}
    assert train.progress(without_codes) == ["loss 0.5", "0.25 windows/s"]


def _in_terminal(columns, use):
    """Returns what `use` writes to a terminal, and its states, one after the other."""
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    with os.fdopen(theirs, "w", encoding="utf-8") as file:
        use(file)
    written = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # on Linux the end of a terminal that is closed
            break
        if not read:
            break
        written += read
    os.close(ours)
    text = written.decode()
    assert text.endswith("\r\n")  # a terminal makes \r\n of \n
    return text, [part.rstrip() for part in text[:-2].split("\r") if part.strip()]


def _count(file, *, total=480, description=None):
    with Bar(description=description, total=total, file=file) as bar:
        for _ in range(total):
            bar.update()
            bar.show(SHOWN)
        time.sleep(0.11)  # a terminal is drawn ten times a second
        bar.refresh()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns):
    text, states = _in_terminal(columns, _count)
    assert len(states) >= 2
    assert text.count("\n") == 1  # the last line ends, none before
    # No state is wider, spaces that wipe the one before included.
    assert max(len(part) for part in text[:-2].split("\r")) < columns
    assert states[-1].startswith("480/480 in 00:0")


def test_values_that_have_no_room_are_left_out_whole():
    wide, usual, narrow = (
        _in_terminal(columns, _count)[1][-1] for columns in (200, 80, 40)
    )
    assert ", ".join(SHOWN) in wide
    assert ", ".join(SHOWN) in usual
    assert "█" in wide
    assert "█" not in usual
    # Of the values that follow one without room, those with room stay.
    assert narrow.rstrip("█ ").split(", ")[1:] == [SHOWN[0]]
    _, states = _in_terminal(50, _count)
    assert states[-1].split(", ")[1:] == [SHOWN[0], SHOWN[2]]


def test_a_terminal_that_does_not_know_its_width_has_that_of_the_environment(
    monkeypatch,
):
    monkeypatch.setenv("COLUMNS", "30")
    _, states = _in_terminal(0, _count)
    assert max(map(len, states)) < 30


def test_a_description_stands_before_the_count():
    _, states = _in_terminal(
        80, lambda file: _count(file, total=12, description="simulating furnaces")
    )
    assert states[0].startswith("simulating furnaces: 0/12")
    assert states[-1].startswith("simulating furnaces: 12/12 in 00:0")


class _Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_outside_a_terminal_there_is_a_line_every_thirty_seconds(monkeypatch):
    file, clock = io.StringIO(), _Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    with Bar(total=3000, file=file) as bar:
        for _ in range(3000):
            clock.now_s += 0.125
            bar.update()
            bar.show(SHOWN)
    text = file.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    done = [int(line.partition("/")[0]) for line in lines]
    # At the start, after every 30 s of the 375 s, and at the end.
    assert done == [*range(0, 3000, round(30 / 0.125)), 3000]
    # The 2760 that are left after 30 s, an eighth of a second each.
    assert lines[1] == f"240/3000, 05:45 left, {', '.join(SHOWN)}"
    assert lines[-1] == f"3000/3000 in 06:15, {', '.join(SHOWN)}"


def test_what_is_gone_through_is_counted_and_may_be_hidden():
    file = io.StringIO()
    assert list(Bar("abc", "letters", file=file)) == ["a", "b", "c"]
    assert file.getvalue().splitlines()[-1].startswith("letters: 3/3 in 00:0")
    hidden = io.StringIO()
    assert list(Bar("abc", "letters", file=hidden, shown=False)) == ["a", "b", "c"]
    assert hidden.getvalue() == ""


def test_every_bar_of_the_package_is_this_one():
    users = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and node.names[0].name.startswith("tqdm"))
        or (isinstance(node, ast.ImportFrom) and node.module.startswith("tqdm"))
    ]
    assert set(users) == {"progress.py"}
