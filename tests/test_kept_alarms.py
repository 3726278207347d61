"""Alarms of every released version are read, and score as they did."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

from fmalign_jax.alarm import alarm_file

FOLDER = pathlib.Path(__file__).parent / "data" / "alarms"
KEPT = sorted(FOLDER.glob("*.fmalign"))


def _format(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("alarm.json"))["format"]


def test_alarms_of_the_present_format_are_kept():
    assert alarm_file.FORMAT in map(_format, KEPT)
    assert {path.stem for path in KEPT} == {p.stem for p in FOLDER.glob("*.npz")}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_alarm_scores_as_it_did(path):
    alarm = alarm_file.load(path)
    with np.load(path.with_suffix(".npz")) as kept:
        score, code = alarm(kept["windows"])
        np.testing.assert_allclose(score, kept["score"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(code, kept["code"])
        assert np.ptp(kept["score"]) > 0.1
    assert path.stat().st_size < 200_000
