"""Localisation of the glow: the decoder, its queries, and the tables of the script."""

import functools
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_parameters import fresh_parameters
from made_up_windows import segments_of

from fmalign_jax.config.overrides import load_file
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.ticks import Ticks
from fmalign_jax.evaluation import glow, glow_decoder, localisation_metrics as metrics
from fmalign_jax.evaluation.glow_decoder import GlowDecoder
from fmalign_jax.evaluation.pointing import Looks
from fmalign_jax.run.frozen_encoder import Encodings


def test_a_query_of_zeros_is_the_plain_decoder():
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.normal(size=(2, 4, 4, 6)), jnp.float32)
    query = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    module = GlowDecoder(doublings=1, features=8)
    params = fresh_parameters(module, maps, query)
    apply = jax.jit(module.apply)
    without = apply(params, maps, 0 * query)
    assert without.shape == (2, 8, 8)
    film = params["params"]["film"]["kernel"]
    gone = {"params": {**params["params"], "film": {"kernel": 0 * film}}}
    np.testing.assert_array_equal(apply(gone, maps, query), without)
    # A scale of 1 and the shift of the query, by hand before the convolutions.
    doubled = {"params": dict(params["params"])}
    kernel = np.zeros_like(film)
    kernel[0, :8] = 1.0  # the first entry of the query is what channels gain
    doubled["params"]["film"] = {"kernel": kernel}
    first = doubled["params"]["Conv_0"]
    stronger = {
        **params["params"],
        "Conv_0": {name: 3 * value for name, value in first.items()},
    }
    np.testing.assert_allclose(
        apply(doubled, maps, 0 * query + 2),
        apply({"params": stronger}, maps, 0 * query),
        rtol=1e-5,
        atol=1e-5,
    )


@functools.cache
def _planted():
    """Frames in which two cells are bright, and the query says which one glows."""
    rng = np.random.default_rng(0)
    number = 240
    maps = 0.1 * rng.normal(size=(number, 2, 2, 3))
    first, second = rng.integers(0, 4, (2, number))
    kind = rng.integers(0, 2, number)
    rows = np.arange(number)
    maps[rows, first // 2, first % 2, 0] += 1
    maps[rows, second // 2, second % 2, 1] += 1
    cell = np.where(kind, second, first)
    masks = np.zeros((number, 4, 4), bool)
    for row, (i, j) in enumerate(zip(cell // 2, cell % 2, strict=True)):
        masks[row, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = kind[row] or row % 3
    query = np.stack([kind, 1 - kind], axis=1) * 2.0 - 1
    return maps.astype(np.float32), query.astype(np.float32), masks


def test_a_decoder_learns_what_the_query_asks_for():
    maps, query, masks = _planted()
    fitted = glow_decoder.fit(maps[:160], query[:160], masks[:160], steps=100, seed=0)
    test = slice(160, None)

    def found(asked):
        return metrics.iou(
            metrics.confusion(masks[test], fitted.masks(maps[test], asked))
        )

    assert fitted.module.doublings == 1
    assert found(query[test]) > 0.5
    assert found(query[test]) - found(-query[test]) > 0.2


@pytest.mark.parametrize(
    ("shape", "share", "message"),
    [
        ((6, 6), 0.5, r"2, 4, 8 .* got \(6, 6\) and \(2, 2\)"),
        ((8, 4), 0.5, "2, 4, 8"),
        ((8, 8), 0.0, "must show a glow; got none in 3 frames"),
    ],
)
def test_what_a_decoder_cannot_learn_is_refused(shape, share, message):
    masks = np.random.default_rng(0).random((3, *shape)) < share
    maps, query = np.zeros((3, 2, 2, 1), np.float32), np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match=message):
        glow_decoder.fit(maps, query, masks, steps=1, seed=0)


def test_wrong_queries_are_wrong_in_one_way():
    glows = np.array([1, 0, 1, 0, 1, 1], bool)
    recording = np.array([0, 0, 0, 1, 1, 2])
    query = np.arange(6, dtype=np.float32)[:, None] + 1
    found = glow.queries(query, glows, recording, seed=0)
    assert not found[glow.ZEROS].any()
    np.testing.assert_array_equal(found[glow.RIGHT], query)
    other = found[glow.OTHER_STATE][:, 0].astype(int) - 1
    assert (glows[other] != glows).all()
    # The last recording has one state only.
    assert (recording[other] == recording)[:5].all()
    other = found[glow.OTHER_RECORDING][:, 0].astype(int) - 1
    assert (glows[other] == glows).all()
    assert (recording[other] != recording).all()
    alone = glow.queries(query, np.ones(6, bool), np.zeros(6, int), seed=0)
    assert alone[glow.OTHER_STATE] is alone[glow.OTHER_RECORDING] is None


def test_the_effect_of_queries_is_a_difference_over_recordings():
    right = np.tile([8, 1, 1, 90], (2, 6, 1))
    wrong = np.tile([4, 1, 5, 90], (2, 6, 1))
    recording = np.array([0, 0, 1, 1, 2, 2])
    chosen = np.array([True] * 4 + [False] * 2)
    wrong[1, 4:] = 0  # not chosen
    found = glow.query_effect(right, wrong, chosen, recording)
    assert found["mean"] == pytest.approx(0.8 - 0.4)
    assert found["frames"] == 4
    np.testing.assert_allclose(found["interval"], 0.4)
    assert glow.query_effect(right, wrong, 0 * chosen > 0, recording) is None
    one = glow.query_effect(right, wrong, recording == 0, recording)
    assert one["interval"] is None


def test_means_are_over_recordings():
    found = glow.over_recordings(
        np.array([0.0, 0, 0, 1]), np.array([3, 3, 3, 5]), seed=0
    )
    assert found["mean"] == 0.5
    assert found["interval"] == [0, 1]


@pytest.fixture(scope="module")
def script():
    """scripts/glow.py, which takes its tables from a neighbour."""
    folder = pathlib.Path(__file__).parents[1] / "scripts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        yield load_file(folder / "glow.py")


def test_without_an_effect_it_is_said_to_be_plain_segmentation(script):
    def direction(effect, gain):
        return {
            "query_effect": {"all": effect and {"interval": effect}},
            "gain": {"all": {"interval": gain}},
        }

    above, around = [0.1, 0.2], [-0.1, 0.2]
    said = script.verdict(
        {
            "a": direction(above, above),
            "b": direction(around, around),
            "c": direction(above, around),
            "d": direction(None, above),
        }
    )
    assert "the query matters" in said["a"]
    assert "no effect" in said["b"]
    assert "adds nothing to plain video segmentation" in said["c"]
    assert "too few" in said["d"]


def test_frames_are_those_of_the_last_ticks_and_of_their_recordings():
    number = 12
    recording = np.repeat(np.arange(2, dtype=np.int32), 6)
    position = np.tile(np.arange(6), 2)
    ticks = Ticks(
        samples={"video": np.stack([2 * position, 2 * position + 1], axis=1)},
        usable=np.ones(number, bool),
        label=np.zeros(number, np.int32),
        segments=segments_of(recording, position),
    )
    windows = WindowIndex(ticks, np.array([0, 3, 6, 8]), 3, "recording")

    def masks(name, frame):
        """A glow in one recording only, at a place that tells the frame."""
        found = np.zeros((len(frame), 8, 16), bool)
        if name == "second":
            found[np.arange(len(frame)), 0, frame] = True
        return found

    store = mock.Mock(spec=RecordingStore)
    store.names = ("first", "second")
    store.gather = lambda stream, recording, frame: np.repeat(
        200 * masks(store.names[recording], frame)[..., None], 3, axis=-1
    ).astype(np.uint8)
    features = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    encoded = Encodings(
        {}, None, {"video": features, "current": -features}, {}, {}, None
    )
    asked = {}

    def look(queries):
        asked.update(queries)
        return Looks(np.zeros((4, 1, 2, 3)), np.zeros((4, 1, 2)), {})

    found = glow.frames_of(windows, store, masks, encoded, "semantic", look)
    assert found.glows.tolist() == [False, False, True, True]
    # Windows of three ticks, two frames each: frames 5, 11 and 5, 9 of the recordings.
    assert found.masks.nonzero()[2].tolist() == [5, 9]
    np.testing.assert_array_equal(found.query["current"], -features[:, 2])
    assert asked.keys() == {"video", "current"}
    assert not found.hidden.any()
    np.testing.assert_array_equal(found.touched[:, 0], [[0, 0], [0, 0], [1, 0], [0, 1]])
