"""Channels of code vectors: what U rewards, what is kept, what must change nothing."""

import dataclasses
import itertools

import numpy as np
import pytest
from made_up_windows import evaluation_splits
from ml_collections import ConfigDict

from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.evaluation import channels
from fmalign_jax.evaluation.channels import ChannelSpec, kept, usefulness
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.splits import HEAD
from fmalign_jax.run.frozen_encoder import Encodings

RULES = [spec for spec in channels.KINDS if spec != "pca"]


def _vectors(codes=9, width=6, seed=0):
    """Code vectors, of which channels 2 and 4 vary much and 5 is far from zero."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(codes, width))
    vectors[:, [2, 4]] *= 4
    vectors[:, 5] += 9
    return vectors


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_usefulness_is_that_of_its_definition(share):
    vectors = _vectors()
    size, width = vectors.shape
    expected = []
    for k in range(width):
        column = vectors[:, k]
        pairs = [
            column[i] * column[j] for i, j in itertools.permutations(range(size), 2)
        ]
        mean = sum(column) / size
        variance = sum((x - mean) ** 2 for x in column) / (size - 1)
        alike = sum(pairs) / (size * (size - 1))
        expected.append(-share * alike + (1 - share) * variance)
    np.testing.assert_allclose(usefulness(vectors, share), expected, rtol=1e-12)
    mean, variance = vectors.mean(axis=0), vectors.var(axis=0, ddof=1)
    np.testing.assert_allclose(
        usefulness(vectors),
        -0.7 * mean**2 + (0.3 + 0.7 / size) * variance,
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("count", "top", "bottom", "highest", "lowest"),
    [(224, 1, 1, 112, 112), (128, 3, 1, 96, 32), (64, 1, 0, 64, 0)],
)
def test_the_highest_and_the_lowest_are_kept_in_their_shares(
    count, top, bottom, highest, lowest
):
    vectors = _vectors(codes=20, width=256)
    spec = ChannelSpec(kind="toc", top=top, bottom=bottom)
    assert ChannelSpec(keep=(count,), top=top, bottom=bottom).counts(256) == [count]
    order = np.argsort(usefulness(vectors))
    expected = {*order[256 - highest :], *order[:lowest]}
    found = kept(spec, "toc", vectors, count, (0, 0))
    assert len(found) == count
    assert set(found) == expected


def test_each_rule_keeps_what_it_says():
    vectors = _vectors()
    spec = ChannelSpec(kind="toc")
    value = usefulness(vectors)
    found = {kind: kept(spec, kind, vectors, 2, (0, 0)).tolist() for kind in RULES}
    assert found["all"] == [0, 1, 2, 3, 4, 5]
    assert found["toc"] == [2, 4]
    assert found["variance"] == sorted(np.argsort(vectors.var(axis=0))[-2:])
    assert found["worst"] == sorted(np.argsort(value)[:2])
    assert 5 in found["worst"]
    drawn = [tuple(kept(spec, "random", vectors, 2, (0, n))) for n in range(20)]
    assert len(set(drawn)) > 5
    assert drawn[0] == tuple(kept(spec, "random", vectors, 2, (0, 0)))
    # A channel far from zero is not useful, however much it varies.
    far = vectors * np.where(np.arange(6) == 5, 5.0, 1.0)
    assert np.argmax(far.var(axis=0)) == 5
    assert 5 in kept(spec, "worst", far, 2, (0, 0))


def test_each_setting_has_its_effect():
    # Little variance around zero, or much of it far from zero: the share decides.
    vectors = np.array([[1.0, 9.0, 8.0], [-1.0, 5.0, 2.0], [1.0, 1.0, 8.0]])
    found = {
        share: kept(ChannelSpec(share=share), "toc", vectors, 1, (0, 0)).tolist()
        for share in (0.0, 0.7)
    }
    assert found == {0.0: [1], 0.7: [0]}
    both = ChannelSpec(top=1, bottom=1)
    assert kept(both, "toc", vectors, 2, (0, 0)).tolist() == [0, 2]


def test_ties_go_to_the_lower_channel():
    vectors = np.tile(np.array([[1.0], [-1.0]]), (1, 5))
    spec = ChannelSpec(kind="toc")
    assert kept(spec, "toc", vectors, 2, (0, 0)).tolist() == [0, 1]
    assert kept(spec, "worst", vectors, 2, (0, 0)).tolist() == [0, 1]


def test_the_order_of_the_codes_changes_nothing():
    vectors = _vectors(codes=30, width=40)
    shuffled = np.random.default_rng(5).permutation(vectors)
    spec = ChannelSpec(kind="toc", top=2, bottom=1)
    for kind in RULES:
        np.testing.assert_array_equal(
            kept(spec, kind, vectors, 12, (0, 0)),
            kept(spec, kind, shuffled, 12, (0, 0)),
        )


def test_without_a_number_those_of_the_publication_are_tried():
    spec = ChannelSpec(kind="toc")
    assert spec.counts(128) == [32, 64, 72, 84, 98, 112, 128]
    assert spec.counts(256) == [64, 128, 144, 168, 196, 224, 256]
    assert ChannelSpec(keep=(7, 6, 5), top=2, bottom=1).counts(9) == [6, 3]


# Within an evaluation


@pytest.fixture(autouse=True)
def two_draws(monkeypatch):
    """As many as show that they differ."""
    monkeypatch.setattr(channels, "DRAWS", 2)


def _world(width=6, seed=0, windows=60, exploded=False):
    """Encodings of head and test: a code a class and tick, in both modalities."""
    rng = np.random.default_rng(seed)
    vectors = _vectors(codes=9, width=width, seed=seed).astype(np.float32)
    vectors[8] = 1e3 * vectors[3] if exploded else vectors[7]  # not used
    encoded, labels = {}, {}
    for name in (HEAD, "test"):
        label = rng.integers(0, 2, windows)
        codes = {
            m: np.where(
                rng.uniform(size=(windows, 4)) < 0.75,
                label[:, None] * 4 + rng.integers(0, 2, (windows, 4)),
                rng.integers(0, 8, (windows, 4)),
            )
            for m in ("video", "current")
        }
        codes["video"][0, :4], codes["video"][1, :4] = [0, 1, 2, 3], [4, 5, 6, 7]
        encoded[name] = Encodings(codes, vectors, {}, {}, {}, None)
        labels[name] = label
    return encoded, evaluation_splits(labels, recordings=2)


def _config(**changes):
    config = evaluation_config()
    config.features = "codes"
    config.bootstrap_draws = 20
    config.channels.update(changes)
    return config


def _described(world, config, head=None):
    head = HeadSpec() if head is None else head
    encoded, splits = world
    seen, choice = channels.select(encoded, splits, head, config)
    return seen, channels.describe(encoded, choice, splits, head, config)


def test_all_channels_are_no_choice():
    world = _world()
    seen, found = _described(world, _config())
    assert seen is world[0]
    assert found is None


def test_as_many_channels_as_there_are_change_no_prediction():
    encoded, splits = _world()
    seen, found = _described((encoded, splits), _config(kind="toc", keep=(6,)))
    for name in encoded:
        np.testing.assert_array_equal(
            seen[name].features("video", "codes"),
            encoded[name].features("video", "codes"),
        )
    for row in ("toc", "worst", "variance"):
        assert found["rows"][row] == found["rows"]["all"]


def test_only_vectors_are_shortened_and_rows_stand_beside_it():
    encoded, splits = _world()
    seen, found = _described((encoded, splits), _config(kind="toc", keep=(2,)))
    assert found["kept"] == [2, 4]
    for name, own in encoded.items():
        assert seen[name].codes is own.codes
        np.testing.assert_array_equal(seen[name].vectors, own.vectors[:, [2, 4]])
    assert (found["channels"], found["used_codes"], found["keep"]) == (6, 8, 2)
    assert found["choice"] is None
    assert tuple(found["rows"]) == channels.KINDS
    assert found["rows"]["random"]["video->current"]["draws"] == channels.DRAWS
    for kind in ("all", "worst", "pca"):
        assert found["rows"][kind]["video->current"]["intervals"]
    for kind in ("random", "pca"):
        alone, own = _described((encoded, splits), _config(kind=kind, keep=(2,)))
        assert own["rows"] == found["rows"]
        assert own["kept"] == (
            None
            if kind == "pca"
            else kept(
                ChannelSpec(), kind, encoded[HEAD].vectors[:8], 2, (0, 0)
            ).tolist()
        )
        assert alone["test"].vectors.shape == (9, 2)


def test_of_two_codebooks_each_has_its_own_choice():
    alone, splits = _world()
    other, _ = _world(seed=1)
    config = _config(kind="toc", keep=(2,))
    _, first = _described((alone, splits), config)
    _, second = _described((other, splits), config)
    assert first["lower"] is None
    assert first["kept"] != second["kept"]
    both = {
        name: dataclasses.replace(
            own, lower_codes=other[name].codes, lower_vectors=other[name].vectors
        )
        for name, own in alone.items()
    }
    seen, found = _described((both, splits), config)
    assert found["kept"] == first["kept"]
    assert found["lower"] == {n: second[n] for n in ("used_codes", "kept")}
    for name, own in both.items():
        expected = own.features("video", "codes")[..., first["kept"]]
        lower = own.features("video", "codes")[..., [6 + k for k in second["kept"]]]
        np.testing.assert_array_equal(
            seen[name].features("video", "codes"), np.concatenate([expected, lower], -1)
        )
    # Random channels of the two are drawn apart.
    drawn = _described((both, splits), _config(kind="random", keep=(2,)))[1]
    assert (
        drawn["kept"]
        == kept(ChannelSpec(), "random", alone[HEAD].vectors[:8], 2, (0, 0)).tolist()
    )
    assert (
        drawn["lower"]["kept"]
        == kept(ChannelSpec(), "random", other[HEAD].vectors[:8], 2, (0, 0, 1)).tolist()
    )


def test_principal_components_are_those_of_the_codes_in_use():
    encoded, splits = _world(exploded=True)
    seen, _ = _described((encoded, splits), _config(kind="pca", keep=(3,)))
    used = encoded[HEAD].vectors[:8].astype(float)
    centred = used - used.mean(axis=0)
    axes = np.linalg.svd(centred)[2][:3]
    found = seen["test"].vectors[:8]
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ axes.T), atol=1e-4)


def test_a_code_that_is_not_used_changes_nothing():
    head, config = HeadSpec(), _config(kind="toc", keep=(2, 3, 4))
    for kind in ("toc", "pca"):
        config.channels.kind = kind
        plain, exploded = (
            _described(_world(exploded=exploded), config, head)[1]
            for exploded in (False, True)
        )
        assert plain == exploded


def test_how_many_is_chosen_within_the_head_split():
    encoded, splits = _world(windows=120)
    # Only the channel of lowest U knows the class, so that few channels know nothing.
    vectors = _vectors().astype(np.float32)
    vectors[:, 5] = 5
    vectors[:, :5] = np.random.default_rng(3).permutation(vectors[:, :5])
    vectors[:4, 5], vectors[4:8, 5] = 4.9, 5.1
    vectors[:8, :5] = np.tile(vectors[:4, :5], (2, 1))
    world = (
        {n: dataclasses.replace(own, vectors=vectors) for n, own in encoded.items()},
        splits,
    )
    config = _config(kind="toc", keep=(2, 6))
    _, found = _described(world, config)
    assert found["keep"] == 6
    assert found["choice"]["6"] > found["choice"]["2"] + 0.2
    # What is tested has no say in it.
    for name, said in (("test", True), (HEAD, False)):
        own = splits.by_name[name]
        mixed = np.random.default_rng(0).permutation(own.label)
        by_name = {**splits.by_name, name: dataclasses.replace(own, label=mixed)}
        other = world[0], dataclasses.replace(splits, by_name=by_name)
        assert (_described(other, config)[1]["choice"] == found["choice"]) == said


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "best"}, "channels.kind must be one of all, toc.*; got 'best'"),
        ({"top": 0, "bottom": 0}, "not both 0; got 0 and 0"),
        ({"top": -1, "bottom": 2}, "0 or more, and not both 0; got -1 and 2"),
        ({"share": 1.5}, "channels.share must be from 0 to 1; got 1.5"),
    ],
)
def test_faulty_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ChannelSpec(**settings)


@pytest.mark.parametrize(("keep", "least"), [((129,), 1), ((64, 3), 4)])
def test_more_channels_than_there_are_are_refused(keep, least):
    spec = ChannelSpec(keep=keep, top=least, bottom=0)
    with pytest.raises(ValueError, match=f"must be from {least} to the 128 channels"):
        spec.counts(128)


def test_one_code_in_use_is_refused():
    encoded, splits = _world()
    own = encoded[HEAD]
    own.codes.update({m: np.full_like(codes, 3) for m, codes in own.codes.items()})
    with pytest.raises(ValueError, match="that the head split uses; got 1"):
        channels.select(encoded, splits, HeadSpec(), _config(kind="toc"))


@pytest.mark.parametrize(
    ("kinds", "remedy"),
    [
        (["shared", "codes", "semantic"], "add --config.features=codes"),
        (["semantic"], "this run's system has no codebook"),
    ],
)
def test_features_that_are_no_code_vectors_are_refused(kinds, remedy, monkeypatch):
    monkeypatch.setattr(channels, "make_system", lambda _: None)
    monkeypatch.setattr(channels, "kinds_of_features", lambda _: kinds)
    config = _config(kind="toc")
    channels.check(config, ConfigDict())
    config.features = "semantic"
    with pytest.raises(ValueError, match=f"got features=semantic; .*{remedy}"):
        channels.check(config, ConfigDict())
    config.channels.kind = "all"
    channels.check(config, ConfigDict())
