"""Pixels and cells of a region: metrics by hand, and what chance gives."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fmalign_jax.evaluation import localisation_metrics as metrics


@pytest.fixture(scope="module")
def found():
    """Masks, what is said of them, and their pixels by a loop over frames."""
    rng = np.random.default_rng(0)
    masks = rng.random((6, 16, 16)) < 0.1
    masks[2:4] = False
    said = masks ^ (rng.random(masks.shape) < 0.05)
    said[3] = False
    counts = metrics.confusion(masks, said)
    return masks, said, counts


def test_metrics_of_pixels_are_those_of_their_definitions(found):
    masks, said, counts = found
    both, either = (masks & said).sum(), (masks | said).sum()
    assert metrics.iou(counts) == both / either
    dark, neither = (~masks & ~said).sum(), (~masks | ~said).sum()
    expected = (both / either + dark / neither) / 2
    assert metrics.both_classes_iou(counts) == pytest.approx(expected)
    precision, recall = both / said.sum(), both / masks.sum()
    expected = 1.3 * precision * recall / (0.3 * precision + recall)
    assert metrics.f_measure(counts) == pytest.approx(expected)
    # Of the two frames without a glow one has a false mask.
    assert metrics.false_mask_share(counts) == 0.5
    assert (counts.sum(axis=1) == 256).all()
    np.testing.assert_array_equal(counts[1, :3], _by_pixel(masks[1], said[1]))


def _by_pixel(mask, said):
    pairs = list(zip(mask.ravel(), said.ravel(), strict=True))
    return [pairs.count(kind) for kind in ((1, 1), (0, 1), (1, 0))]


def test_saying_nothing_has_half_of_the_background():
    masks = np.zeros((10, 64, 64), bool)
    masks.reshape(10, -1)[:, :25] = True  # 0.6 %
    counts = metrics.confusion(masks, np.zeros_like(masks))
    assert metrics.both_classes_iou(counts) == pytest.approx(0.497, abs=5e-4)
    assert metrics.iou(counts) == metrics.f_measure(counts) == 0
    assert np.isnan(metrics.false_mask_share(counts))
    assert np.isnan(metrics.iou(metrics.confusion(~masks[:0], masks[:0])))


def test_a_small_false_mask_on_a_dark_frame_is_no_success():
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :5, :5] = True
    said = masks.copy()
    said[1, 0, 0] = True
    counts = metrics.confusion(masks, said)
    assert metrics.false_mask_share(counts) == 1
    assert metrics.iou(counts[:1]) == 1
    assert metrics.iou(counts) == 25 / 26


def test_a_glow_as_bright_as_its_surroundings_is_hidden():
    masks = np.zeros((4, 32, 32), bool)
    masks[:3, 10:14, 10:14] = True
    frames = np.full((4, 32, 32, 3), 100, np.uint8)
    frames[0][masks[0]] = 106
    frames[1][masks[1]] = 107
    frames[2, :, :7] = 250  # beyond the ring of three pixels
    assert metrics.hidden(frames, masks).tolist() == [True, False, True, False]
    frames[2, 10:14, 7:10] = 180  # within it
    assert not metrics.hidden(frames, masks)[2]


def _discs(area, number=4000):
    """Discs of so many pixels, anywhere on the frame where they lie in it whole."""
    radius = np.sqrt(area / np.pi)
    centre = np.random.default_rng(0).uniform(radius, 64 - radius, (number, 2))
    grid = np.arange(64) + 0.5
    distance = np.hypot(
        (grid - centre[:, :1])[:, :, None], (grid - centre[:, 1:])[:, None]
    )
    return distance < radius


@pytest.mark.parametrize(("area", "expected"), [(4, 0.13), (25, 0.17), (120, 0.26)])
def test_chance_of_the_pointing_game(area, expected):
    touched = metrics.cells(_discs(area), 8)
    assert touched.shape[1:] == (8, 8)
    chance = metrics.pointing_chance(touched).mean()
    assert chance == pytest.approx(expected, abs=0.015)
    # What a random map hits, and what one that is the same everywhere does.
    maps = np.random.default_rng(1).random(touched.shape)
    assert metrics.pointing_game(maps, touched).mean() == pytest.approx(
        chance, abs=0.02
    )
    np.testing.assert_allclose(
        metrics.pointing_game(np.ones(touched.shape), touched),
        metrics.pointing_chance(touched),
    )


def test_the_highest_cell_may_lie_beside_the_glow():
    masks = np.zeros((3, 64, 64), bool)
    masks[:, 20, 20] = True  # cell (2, 2)
    maps = np.zeros((3, 8, 8))
    maps[0, 3, 1], maps[1, 4, 2] = 1, 1
    maps[2, 2, 2] = maps[2, 7, 7] = 1
    touched = metrics.cells(masks, 8)
    assert metrics.pointing_game(maps, touched).tolist() == [1, 0, 0.5]


def test_auroc_of_cells_is_that_of_sklearn():
    rng = np.random.default_rng(2)
    maps = rng.integers(0, 5, (5, 8, 8)).astype(float)
    touched = rng.random((5, 8, 8)) < 0.1
    touched[4] = False
    expected = [
        roc_auc_score(own.ravel(), one.ravel())
        for own, one in zip(touched[:4], maps[:4], strict=True)
    ]
    found = metrics.cell_auroc(maps, touched)
    np.testing.assert_allclose(found[:4], expected)
    assert np.isnan(found[4])
