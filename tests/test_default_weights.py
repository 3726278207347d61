"""The weights that the project gives away are whole, of today's default, and useful."""

import json
import pathlib
import re

import numpy as np
import pytest

import fmalign_jax as fm
from fmalign_jax.config import shipped_config

DOCS = pathlib.Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def run():
    return fm.load(DOCS / "weights" / "default.fmrun")


@pytest.mark.parametrize("page", ["sharing.md", "sharing.zh.md"])
def test_the_page_names_the_digest(run, page):
    assert f"`{run.digest}`" in (DOCS / page).read_text(encoding="utf-8")


def test_they_are_of_the_config_that_is_shipped_today(run):
    """Where this fails the default has changed: run scripts/default_weights.py."""
    shipped = shipped_config("pretrain")
    assert json.loads(run.config.to_json()) == json.loads(shipped.to_json())


def test_codes_of_a_furnace_that_was_never_seen_are_shared(run):
    found = run.encode(fm.sample()).shared_codes
    video, current = found["video"].ravel(), found["current"].ravel()
    shifts = range(5, len(video) - 5)
    by_chance = [np.mean(video == np.roll(current, shift)) for shift in shifts]
    assert np.mean(video == current) > max(by_chance)
    page = (DOCS / "sharing.md").read_text(encoding="utf-8")
    said, windows = re.search(r"agree in (\d+) of (\d+) windows", page).groups()
    assert len(video) == int(windows)
    # Another processor may round a window on the border to the other side.
    assert abs(np.sum(video == current) - int(said)) <= 1
