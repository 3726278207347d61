"""A system's own similarity: in the search for the lead, and how it gets there."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax.config import load_file
from fmalign_jax.config.commands import lead_config
from fmalign_jax.config.default import data_config
from fmalign_jax.data import dataset
from fmalign_jax.data.windows.statistics import channel_statistics
from fmalign_jax.lead import indicators, layout as lead_layout, recordings, search
from fmalign_jax.lead.tick_features import Clip, TickFeatures
from fmalign_jax.run import restore
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.training import sharding

SYSTEMS = pathlib.Path(__file__).parents[1] / "configs" / "systems.py"
N, UNITS, LEAD = 400, 8, 14
VECTORS = np.random.default_rng(0).normal(size=(UNITS, 6))


def _units(seed):
    """Returns units that last a few ticks, of a reference LEAD ticks behind."""
    rng = np.random.default_rng(seed)
    units = np.repeat(rng.integers(0, UNITS, N), 5)[: N + LEAD]
    return units[:N], units[LEAD:]


def _likelihoods(reference, leading):
    """As AlignVSR: ln A - ln f, and the unit."""
    attention = 0.6 * np.eye(UNITS)[reference] + 0.4 / UNITS
    return np.log(attention * UNITS)[:, None], np.eye(UNITS)[leading][:, None]


def _queries(reference, leading):
    """As a Q-Former: one query of three is near, the others cancel it in the mean."""
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    other = np.random.default_rng(1).normal(size=(N, 6)) / 9
    slots = np.stack([unit[reference], -unit[reference] + other, -other], axis=1)
    return slots, unit[leading][:, None]


def _clips(compared):
    def features(own, seed):
        noise = np.random.default_rng(seed).normal(size=(N, 6)).astype(np.float32)
        return TickFeatures(
            start_s=0.0,
            known=np.ones(N, bool),
            semantic=noise,  # says nothing
            code=None,
            plain=noise[:, :2],
            motion=noise[:, :3],
            own=own.astype(np.float32),
        )

    found = []
    for seed in range(3):
        # What the leading modality shows at tick j, the reference shows at j + LEAD.
        reference, leading = compared(*_units(seed))
        sides = features(reference, [seed, 1]), features(leading, [seed, 2])
        found.append(Clip(f"heat_{seed}", 0, *sides))
    return found


@pytest.mark.parametrize("compared", [_likelihoods, _queries])
def test_a_planted_shift_is_found_by_own(compared):
    config = lead_config()
    config.indicators = config.chance_of = ("own",)
    config.indicator = config.evidence = "own"
    config.least_lead_s, config.most_lead_s = -60.0, 60.0
    config.bootstrap_draws, config.null_draws = 50, 20
    data = data_config()
    data.window_ticks = 10
    found = search.find_lead(_clips(compared), config, data)
    assert found["verdict"] == search.FOUND
    assert found["estimate_s"] == pytest.approx(LEAD * data.tick_s, abs=0.5)
    curve = np.array(found["indicators"]["own"]["curve"])
    assert found["lead_s"][curve.argmax()] == LEAD * data.tick_s


def test_without_a_similarity_of_its_own_it_is_the_cosine():
    clips = [
        dataclasses.replace(
            clip,
            reference=dataclasses.replace(clip.reference, own=None),
            leading=dataclasses.replace(clip.leading, own=None),
        )
        for clip in _clips(_queries)
    ]
    layout = lead_layout.layout(
        clips, tick_s=2.0, least_s=-20.0, most_s=20.0, unit_ticks=50
    )
    rows = indicators.make_rows(layout, ["own", "cosine"], window_ticks=5, dimensions=3)
    for side in (rows.reference, rows.leading):
        np.testing.assert_array_equal(side["own"][:, :, 0], side["cosine"])


def test_by_default_it_is_not_asked():
    """A search of before keeps the digest of its folder."""
    assert "own" not in lead_config().indicators
    assert "own" in indicators.INDICATORS


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("alignvsr", {"reference": (1, 64), "leading": (1, 64)}),
        pytest.param(
            "qformer",
            {"reference": (8, 16), "leading": (1, 16)},
            marks=pytest.mark.slow,
        ),
        pytest.param("clip", None, marks=pytest.mark.slow),
    ],
)
def test_ticks_keep_what_the_system_compares(name, shapes, tmp_path, monkeypatch):
    """By encoders that were not trained, of single ticks, to the files and back."""
    config = tiny.tiny_config(tmp_path)
    load_file(SYSTEMS).SYSTEMS[name](config)
    config.model.transformer.layers = 0  # compiles faster
    store = dataset.open_dataset(config)
    windows = dataset.make_windows(store, config)["train"]
    statistics = jax.tree.map(
        jnp.asarray, channel_statistics(store, windows, ["video", "current"])
    )
    encoder = FrozenEncoder(config, ("video", "current"), sharding.one_device_mesh())
    state = encoder.random(statistics, store, windows, seed=0)
    run = OpenedRun(tmp_path, config, step=1, chosen="given")
    material = recordings.SearchData(store, (0,), "the run", trained_on=False)
    monkeypatch.setattr(restore, "restore", lambda *_: state)
    (clip,) = recordings.encode(lead_config(), run, material, tmp_path)
    monkeypatch.setattr(restore, "restore", None)  # now it is read
    (again,) = recordings.encode(lead_config(), run, material, tmp_path)
    for role in ("reference", "leading"):
        part = getattr(clip, role)
        np.testing.assert_array_equal(getattr(again, role).own, part.own)
        if shapes is None:
            assert part.own is None
            continue
        assert part.own.shape == (len(part), *shapes[role])
        if name == "qformer":
            np.testing.assert_allclose(part.own.mean(1), part.semantic, atol=1e-6)
        else:
            np.testing.assert_allclose(part.semantic[part.known].sum(1), 1, rtol=1e-5)
            assert len(np.unique(part.code)) > 1
    if shapes is not None:
        # Features of before it was kept lack it, and are not read.
        monkeypatch.delattr(type(encoder.system), "similarity")
        with pytest.raises(TypeError, match="not callable"):
            recordings.encode(lead_config(), run, material, tmp_path)
