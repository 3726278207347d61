"""The kill test notices what it looks for."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
ROWS = ["time,probability", "1.0,0.5", "2.0,0.6", "3.0,0.7"]


@pytest.fixture(scope="module")
def own():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import kill_commands

        yield kill_commands
        del sys.modules["kill_commands"]


@pytest.fixture
def kill_test(own, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import kill_test

    yield kill_test
    del sys.modules["kill_test"]


def _results(folder, *, rows=ROWS, score=0.5, seconds=1.0, picture=b"picture"):
    folder.mkdir()
    (folder / "readings.csv").write_text("\n".join(rows) + "\n")
    about = {"score": score, "seconds": seconds, "run": str(folder)}
    (folder / "eval.json").write_text(json.dumps(about))
    (folder / "alarm.bin").write_bytes(picture)
    said = "1.0: ALARM, semi-molten expected\n2.0: alarm cleared\n"
    folder.with_name(f"{folder.name}.txt").write_text(said)
    return folder


def test_times_and_places_are_no_difference(own, tmp_path):
    expected = own.outputs(_results(tmp_path / "a"))
    assert not own.differences(
        own.outputs(_results(tmp_path / "b", seconds=2)), expected
    )


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ({"rows": ROWS[:2] + ROWS[3:]}, ["readings.csv"]),
        ({"rows": [*ROWS, ROWS[-1]]}, ["readings.csv"]),
        ({"score": 0.6}, ["eval.json"]),
        ({"picture": b"pictUre"}, ["alarm.bin"]),
    ],
)
def test_a_planted_difference_is_named(own, tmp_path, planted, named):
    expected = own.outputs(_results(tmp_path / "a"))
    found = own.outputs(_results(tmp_path / "b", **planted))
    assert own.differences(found, expected) == named


def test_an_alarm_that_is_rung_twice_is_a_difference(own, tmp_path):
    expected = own.outputs(_results(tmp_path / "a"))
    with own.said(_results(tmp_path / "b")).open("a") as file:
        file.write("1.0: ALARM, semi-molten expected\n")
    assert own.differences(own.outputs(tmp_path / "b"), expected) == ["alarms rung"]


def test_arrays_are_compared_bit_for_bit(own):
    zeros = np.zeros(3, np.float32)
    same = {"w": zeros}
    assert not own.differences({"w": zeros.copy()}, same)
    for other in (-zeros, zeros.astype(np.float64), zeros[:, None], "zeros"):
        assert own.differences({"w": other}, same) == ["w"]
    assert own.differences({}, same) == ["w"]


def test_what_a_kill_must_not_leave(own, tmp_path):
    expected = own.outputs(_results(tmp_path / "a"))
    killed = _results(tmp_path / "b", rows=ROWS[:3])
    assert own.begins_the_same(killed, expected) == []
    assert own.whole_or_absent(killed, expected) == ["readings.csv"]
    (killed / "readings.csv").write_text("\n".join([*ROWS[:2], ROWS[3]]))
    assert own.begins_the_same(killed, expected) == ["readings.csv"]
    for name in ("eval.json", "alarm.fmalign", "ticks.npz", "roc.png"):
        (killed / name).write_bytes(b'{"half')
        assert own.unreadable(killed) == own.only_readable(killed, expected) == [name]
        (killed / name).unlink()
    (killed / ".eval-1a2b.incomplete").mkdir()
    (tmp_path / ".b.lock").touch()
    (tmp_path / ".b-3c4d.incomplete").mkdir()
    assert own.leftovers(killed) == [".b-3c4d.incomplete", ".eval-1a2b.incomplete"]


@pytest.mark.parametrize(
    ("left", "last", "named"),
    [
        ('{"score": 0.5}', '{"score": 0.5}', []),
        ('{"sco', '{"score": 0.5}', ["after a kill within the work: eval.json"]),
        ('{"score": 0.5}', '{"score": 0.6}', ["eval.json"]),
    ],
)
def test_a_round_names_what_was_different(kill_test, tmp_path, left, last, named):
    killer = kill_test.Killer("evaluate", tmp_path, 0)
    killer._expected, killer._lasts_s = {"eval.json": '[{"score": 0.5}]'}, 1.0
    moments = []

    def start(folder, kill_after_s):
        moments.append(kill_after_s)
        folder.mkdir(parents=True, exist_ok=True)
        final = len(moments) == 3
        (folder / "eval.json").write_text(last if final else left)
        return [], None if final else "within"

    killer._start = start
    tally = kill_test.Tally()
    killer.round(1, 2, tally)
    assert max(moments[:2]) <= 1.1
    assert moments[2] == float("inf")
    assert (tally.within, tally.rounds) == (2, 1)
    found = [one.removeprefix("round 1: ") for one in tally.differences]
    assert sorted(set(found)) == named
    assert (tmp_path / "evaluate" / "round-1").exists() == bool(named)


def test_a_start_that_goes_on_too_early_is_named(kill_test, tmp_path, monkeypatch):
    """Steps before the last checkpoint were done, and must not be done again."""
    killer = kill_test.Killer("train", tmp_path, 0)
    folder = tmp_path / "train" / "round-1"
    (folder / "checkpoints" / "20").mkdir(parents=True)
    told = "import sys; sys.exit('resuming at step {} of 40')"
    popen = subprocess.Popen
    for step, number in ((20, 1), (15, 2)):
        command = [sys.executable, "-c", told.format(step)]
        with monkeypatch.context() as patch:
            patch.setattr(
                kill_test.subprocess,
                "Popen",
                lambda _, command=command, **more: popen(command, **more),
            )
            faults, when = killer._start(folder, float("inf"))
        assert when is None
        assert len(faults) == number  # beside the status of 1
    assert faults[0] == "went on at step 15, and step 20 was saved"


def test_another_call_goes_on_where_the_file_ends(kill_test, tmp_path, monkeypatch):
    rounds = []

    class Killer:
        def __init__(self, name, work, seed):
            self.name = name

        def calm(self):
            return {"a": "b"}, 1.5

        def round(self, number, kills, tally):
            rounds.append((self.name, number, kills))
            tally.rounds += 1
            tally.within += kills
            if number == 3:
                tally.differences.append("round 3: eval.json")

    out = tmp_path / "kills.json"
    monkeypatch.setattr(kill_test, "Killer", Killer)

    def call(*arguments):
        given = ["kill_test.py", "--out", str(out), "--commands", *arguments]
        monkeypatch.setattr(sys, "argv", given)
        return kill_test.main()

    assert call("monitor", "--kills", "8") == 0
    assert call("monitor", "train", "--kills", "18") == 1
    names = [name for name, _, _ in rounds]
    assert names == ["monitor", "monitor", "monitor", "train", "train"]
    assert rounds[:3] == [("monitor", 1, 6), ("monitor", 2, 2), ("monitor", 3, 1)]
    found = kill_test.read(out)
    assert (found["monitor"].kills, found["train"].kills) == (9, 9)
    assert "| `monitor` | 9 | 0 | 9 | 0 | 3 | 1 |" in kill_test.table(found)


def test_the_page_shows_what_the_file_holds(kill_test):
    docs = SCRIPTS.parent / "docs"
    found = kill_test.read(docs / "results" / "kills.json")
    assert kill_test.table(found) in (docs / "reliability.md").read_text()
    assert not any(tally.differences for tally in found.values())
