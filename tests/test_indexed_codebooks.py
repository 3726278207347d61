"""One codebook a modality: same indices mean the same thing, by test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from system_cases import make_config
from test_systems_planted import LATENT, WIDE, _planted

from fmalign_jax import losses
from fmalign_jax.config import component
from fmalign_jax.models import quantizer
from fmalign_jax.objectives.code_matching import CodeMatching
from fmalign_jax.objectives.code_prediction import CodePrediction
from fmalign_jax.objectives.commitment import Commitment
from fmalign_jax.systems.indexed_codebooks import IndexedFeatures
from fmalign_jax.systems.system import make_system
from fmalign_jax.training import sharding, step as train_step
from fmalign_jax.training.state import init_state, make_trainer

B, T, D, M = 4, 6, 16, 16
TWO = ("current", "video")


def _system(**codebook):
    config = make_config("indexed")
    for name, value in codebook.items():
        config.codebook[name] = value
    return make_system(config)


def _semantic(seed=0) -> dict:
    rng = np.random.default_rng(seed)
    return {m: jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32) for m in TWO}


def _state(system, seed=0):
    return system.init_model_state(jax.random.key(seed), _semantic(seed))


def _rows(semantic):
    return {m: np.asarray(z).reshape(-1, D) for m, z in semantic.items()}


def _own(state):
    return {
        m: np.asarray(quantizer.embeddings(book))
        for m, book in state["codebooks"].items()
    }


def _chosen(z, book):
    return np.square(z[:, None] - book).sum(axis=-1).argmin(axis=1)


def _features(system, state, semantic):
    books = system.books(state)
    codes = {m: quantizer.assign(z, books[m]) for m, z in semantic.items()}
    vectors = {m: books[m][c] for m, c in codes.items()}
    return IndexedFeatures(
        inputs={},
        semantic=semantic,
        specific={},
        pooled_specific={},
        codes=codes,
        code_vectors=vectors,
        quantized={},
        embeddings=system.code_vectors(state),
        books=books,
        mask=jnp.ones(B, bool),
    )


def test_codes_of_one_index_start_on_the_same_pair_of_ticks():
    semantic = _semantic()
    own, rows = _own(_state(_system(initialisation="sample"))), _rows(semantic)
    ticks = {m: _chosen(own[m], rows[m]) for m in TWO}
    np.testing.assert_array_equal(ticks["video"], ticks["current"])
    for m in TWO:
        np.testing.assert_allclose(own[m], rows[m][ticks[m]])


def test_a_codebook_is_read_as_the_mean_of_all_that_the_cascade_says():
    system = _system()
    state = _state(system)
    own, read = _own(state), system.books(state)
    mean = (own["video"] + own["current"]) / 2
    np.testing.assert_allclose(read["current"], mean, rtol=1e-5)
    np.testing.assert_allclose(read["video"], (mean + own["video"]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(
        system.code_vectors(state),
        np.concatenate([read["current"], read["video"]], axis=1),
    )


def test_without_a_cascade_each_codebook_is_read_as_it_is():
    system = _system(cascade={})
    state = _state(system)
    for m, vectors in _own(state).items():
        np.testing.assert_array_equal(system.books(state)[m], vectors)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": 0.75, "current": 0.5}, r"codebook\.cascade must .* sum 1\.25"),
        ({"video": 0.75, "curent": 0.25}, r"may name only .* got \['curent'\]"),
    ],
)
def test_a_wrong_row_of_the_cascade_is_refused(row, message):
    config = make_config("indexed")
    config.codebook.cascade = {"video": row}
    with pytest.raises(ValueError, match=message):
        tiny.first_state(config)


def test_every_modality_must_move_its_codebook():
    system = _system(ema_mix={"video": {"video": 1.0}})
    state, semantic = _state(system), _semantic()
    with pytest.raises(ValueError, match=r"codebook\.ema_mix must have the modalities"):
        system.update_model_state(
            state, _features(system, state, semantic), jax.random.key(0)
        )


def test_a_codebook_moves_by_what_its_own_modality_chose():
    system = _system(idle_steps=10**6)
    state, semantic = _state(system), _semantic(seed=1)
    features = _features(system, state, semantic)
    after, _ = system.update_model_state(state, features, jax.random.key(0))
    rows, decay = _rows(semantic), system.codebook["decay"]
    for m, other in (TWO, TWO[::-1]):
        codes = _chosen(rows[m], np.asarray(features.books[m]))
        mixed = 0.75 * rows[m] + 0.25 * rows[other]
        before = state["codebooks"][m]
        counts, sums = np.array(before.counts), np.array(before.sums)
        for j in range(M):
            counts[j] = decay * counts[j] + (1 - decay) * (codes == j).sum()
            sums[j] = decay * sums[j] + (1 - decay) * mixed[codes == j].sum(axis=0)
        np.testing.assert_allclose(after["codebooks"][m].counts, counts, rtol=1e-5)
        np.testing.assert_allclose(
            after["codebooks"][m].sums, sums, rtol=1e-4, atol=1e-5
        )


def test_codes_that_none_uses_go_to_the_same_tick_in_every_codebook():
    system = _system(idle_steps=1, idle_rule="all", revival_noise=0.0)
    state, semantic = _state(system), _semantic(seed=1)
    # Codes of the upper half lie where no tick is, and are chosen by none.
    books = {
        m: book.replace(sums=book.sums.at[M // 2 :].set(1e3))
        for m, book in state["codebooks"].items()
    }
    state = {"codebooks": books}
    after, revived = system.update_model_state(
        state, _features(system, state, semantic), jax.random.key(0)
    )
    assert int(revived["revived_codes"]) >= M // 2
    own, rows = _own(after), _rows(semantic)
    ticks = {m: _chosen(own[m][M // 2 :], rows[m]) for m in TWO}
    np.testing.assert_array_equal(ticks["video"], ticks["current"])
    for m in TWO:
        np.testing.assert_allclose(own[m][M // 2 :], rows[m][ticks[m]], rtol=1e-5)


def test_terms_compare_each_modality_with_its_own_codebook():
    system = _system()
    features = _features(system, _state(system), _semantic(seed=1))
    z, books = features.semantic, features.books
    log_p = {m: losses.log_code_distribution(z[m], books[m]) for m in TWO}
    found, _ = CodeMatching().apply({}, features, train=True)
    np.testing.assert_allclose(
        found, losses.code_matching(log_p["current"], log_p["video"]), rtol=1e-5
    )
    found, _ = CodePrediction(weights={"current": {"video": 1.0}}).apply(
        {}, features, train=True
    )
    np.testing.assert_allclose(
        found,
        losses.code_prediction(z["current"], books["current"], features.codes["video"]),
        rtol=1e-5,
    )
    found, _ = Commitment(weights={"current": {"video": 1.0}}).apply(
        {}, features, train=True
    )
    chosen = np.asarray(books["video"])[np.asarray(features.codes["video"])]
    error = np.square(np.asarray(z["current"]) - chosen).mean(axis=(1, 2))
    np.testing.assert_allclose(found, error, rtol=1e-5)


def _trained(steps=150):
    """Trains on planted pairs; returns the system, its state and unseen features."""
    config = make_config("indexed")
    config.batch_size = 32
    config.optimizer.learning_rate = 3e-3
    config.augment = ConfigDict({})
    config.model.transformer.dropout = 0.0
    decoder = component("fmalign_jax.models.decoders.DenseDecoder", features=8)
    for m, parts in config.model.modalities.items():
        parts.stem = component("fmalign_jax.models.encoders.FeatureStem")
        parts.pool = None
        parts.specific = component(
            "fmalign_jax.models.encoders.DenseSpecific", features=8
        )
        config.objectives.reconstruction.decoders[m] = decoder
    rng = np.random.default_rng(0)
    mixing = {m: rng.normal(size=(LATENT, WIDE)) for m in TWO}
    statistics = {
        m: {"mean": np.zeros(WIDE, np.float32), "std": np.full(WIDE, 3.0, np.float32)}
        for m in mixing
    }
    mesh = sharding.make_mesh(jax.devices()[:1])
    trainer = make_trainer(config, steps_per_epoch=10, steps=steps)
    state, step = None, train_step.make_train_step(trainer, mesh)
    for _ in range(steps):
        rows = config.batch_size
        streams = _planted(rng, rows, config.data.window_ticks, mixing)
        batch = {
            "streams": streams,
            "mask": np.ones(rows, bool),
            "recording": np.zeros(rows, np.int32),
            "time_s": np.arange(rows, dtype=float),
        }
        placed = sharding.place_batch(batch, mesh)
        if state is None:
            state = init_state(trainer, placed, statistics, mesh)
        state, _ = step(state, placed)
    unseen = _planted(rng, 64, config.data.window_ticks, mixing)
    encoded = trainer.model.apply(
        {"params": state.params["model"]},
        {m: jnp.asarray(x) / 3.0 for m, x in unseen.items()},
        state.model_state,
        TWO,
        method="encode",
    )
    return trainer.model, state.model_state, encoded


def _agreement(codes):
    """Share of ticks with the same index, and what that would be by chance."""
    first, second = (np.asarray(codes[m]).ravel() for m in TWO)
    shares = [np.bincount(c, minlength=M) / c.size for c in (first, second)]
    return (first == second).mean(), (shares[0] * shares[1]).sum()


@pytest.mark.slow
def test_pairs_come_to_share_indices_and_lose_them_when_one_codebook_is_permuted():
    system, state, encoded = _trained()
    agreement, chance = _agreement({m: e.codes for m, e in encoded.items()})
    assert agreement >= 3 * chance
    books, rng = system.books(state), np.random.default_rng(1)
    broken = []
    for _ in range(20):  # one alone may leave a code that is often used in its place
        book = books["video"][rng.permutation(M)]
        permuted = {
            "video": quantizer.assign(encoded["video"].features, book),
            "current": encoded["current"].codes,
        }
        broken.append(_agreement(permuted)[0])
    assert np.mean(broken) <= 2 / M
