"""The soak notices what it looks for."""

import random
import sys

import pytest
from test_kill_test import SCRIPTS

HEADER, ROWS = "time,probability", ["1.0,0.5", "2.0,0.6", "3.0,0.7"]


@pytest.fixture(scope="module")
def soak():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import soak

        yield soak
        del sys.modules["soak"]


def _log(rows):
    return "\n".join([HEADER, *rows]) + "\n"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (ROWS, {}),
        (ROWS[:1] + ROWS[2:], {"lost": 1}),
        ([*ROWS, ROWS[0]], {"doubled": 1}),
        ([*ROWS[:2], "3.0,0.8"], {"different": 1}),
        ([*ROWS, "4.0,0.8"], {"different": 1}),
    ],
)
def test_what_a_log_lacks_is_counted(soak, rows, named):
    found = soak.compared(_log(rows), _log(ROWS))
    none = dict.fromkeys(("lost", "doubled", "different"), 0)
    assert found == {"readings": 3} | none | named


def test_what_grew_is_named(soak):
    start = soak.Use(100.0, 4, 5)
    assert not soak.grown(start, soak.Use(101.0, 4, 5))
    assert [one.split()[0] for one in soak.grown(start, soak.Use(120.0, 5, 6))] == [
        "memory",
        "threads",
        "files",
    ]


def test_no_garbage_is_a_row_of_its_own(soak):
    rows = soak.tiny_alarm.lines(50_000)
    lines = list(soak.with_garbage(rows))
    assert [line for line, good in lines if good] == rows
    bad = {line for line, good in lines if not good}
    assert 300 < len(bad) < 600
    known = set(rows)
    draw = random.Random(0)
    kinds = {soak.garbage(rows[1], rows[0], draw) for _ in range(200)}
    assert len(kinds) > 7  # lines cut short at many places
    assert not kinds & known


@pytest.mark.slow
def test_a_short_soak_loses_nothing(soak, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "A_FILE", 500)
    monkeypatch.setattr(soak, "TICKS_PER_S", 0)  # mostly waiting at rotations
    found, wrong = soak.monitor(tmp_path, 3000)
    assert not wrong
    assert found["readings"] == 1496
    assert found["rotations"] == {"renamed": 2, "cut": 2, "deleted": 2}
