"""The fuzzer notices what it looks for."""

import random
import sys
import time
import types

import pytest
from test_kill_test import SCRIPTS


@pytest.fixture(scope="module")
def fuzz():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import fuzz

        yield fuzz
        del sys.modules["fuzz"]


def _raises(error):
    def read(folder):
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ValueError("a.npz: too short"), "refused"),
        (OSError("a.npz: no such file"), "refused"),
        (ValueError("two\nlines"), "several lines or none"),
        (ValueError(), "several lines or none"),
        (KeyError("frames"), "KeyError: 'frames'"),
        (MemoryError("much"), "MemoryError: much"),
        (SystemExit(1), "SystemExit: 1"),
    ],
)
def test_only_errors_of_one_line_are_refusals(fuzz, tmp_path, error, found):
    assert fuzz.outcome(_raises(error), tmp_path).startswith(found)


def test_hanging_and_reading_are_told_apart(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_S", 1)
    assert fuzz.outcome(lambda folder: time.sleep(3), tmp_path).startswith("took more")

    def swallows(folder):
        try:
            time.sleep(3)
        except (OSError, RuntimeError) as error:
            raise ValueError("damaged") from error

    assert fuzz.outcome(swallows, tmp_path).startswith("took more")
    assert fuzz.outcome(lambda folder: None, tmp_path) == "read"
    monkeypatch.setattr(fuzz, "MOST_BYTES", -1)
    assert fuzz.outcome(lambda folder: None, tmp_path).endswith(" MB")


def test_every_file_is_changed_and_the_same_with_the_same_seed(fuzz):
    data = b"time,a\n0,1.5\n1,2.5\n"
    drawn = [fuzz.changed(data, random.Random(seed)) for seed in range(200)]
    assert drawn == [fuzz.changed(data, random.Random(seed)) for seed in range(200)]
    assert len(set(drawn)) > 150
    assert sum(found == data for found in drawn) < 20
    fuzz.changed(b"", random.Random(0))


@pytest.mark.parametrize(
    "kind",
    [
        *("npz", "fmf", "fmf_v1", "alarm", "packed", "lines", "table", "images"),
        *("parquet", "gbk"),
    ],
)
def test_the_valid_file_of_each_kind_is_read(fuzz, tmp_path, kind):
    make, read, patterns = fuzz.KINDS[kind]
    make(tmp_path)
    read(tmp_path)
    assert all(list(tmp_path.glob(pattern)) for pattern in patterns)


def test_a_process_that_ends_is_a_failure(fuzz, monkeypatch):
    class Ends:
        """A worker that is killed before it says anything."""

        exitcode = -11

        def __init__(self, **_):
            pass

        def start(self):
            time.sleep(0.3)

        def join(self):
            pass

    monkeypatch.setattr(
        fuzz.multiprocessing,
        "get_context",
        lambda _: types.SimpleNamespace(Process=Ends),
    )
    found = fuzz.try_kind("npz", 0, 0.2, None)
    assert found == {"the process ended with -11": 1}
