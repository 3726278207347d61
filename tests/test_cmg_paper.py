"""The paper's architecture, losses and settings; shapes alone, nothing is computed."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fmalign_jax.models import quantizer
from fmalign_jax.training.state import Trainer, make_trainer

PATH = pathlib.Path(__file__).parents[1] / "configs" / "cmg_paper.py"
SPEC = importlib.util.spec_from_file_location("cmg_paper", PATH)
CMG_PAPER = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(CMG_PAPER)

COMMITMENT = {
    "video": {"video": 0.25, "current": 0.125},
    "current": {"video": 0.125, "current": 0.25},
}
CPC = {
    "video": {"video": 0.1, "current": 1.0},
    "current": {"video": 1.0, "current": 0.1},
}


def input_shapes(config: ConfigDict) -> dict[str, Any]:
    """Two windows as the config's data would make them."""
    options = config.data.options
    rows = (2, config.data.window_ticks)
    video = (*rows, config.data.samples_per_tick.video, *options.video_shape)
    audio = (*rows, config.data.samples_per_tick.current, options.audio_width)
    return {
        "video": jax.ShapeDtypeStruct(video, jnp.float32),
        "current": jax.ShapeDtypeStruct(audio, jnp.float32),
    }


@functools.cache
def shapes(variant: str) -> tuple[Trainer, dict[str, Any], set[str]]:
    """(trainer, its parameters by part, names of its loss terms) of a variant."""
    config = CMG_PAPER.get_config(variant)
    trainer = make_trainer(config, steps_per_epoch=10, steps=60)

    def init(key: Any, inputs: Any) -> Any:
        book = quantizer.empty_codebook(
            config.codebook.codes, config.model.width, modalities=inputs
        )
        features, variables = trainer.model.init_with_output(
            key, inputs, {"codebook": book}, jnp.ones(2, bool), train=False
        )
        (terms, _), objectives = trainer.objectives.init_with_output(
            key, features, train=False
        )
        parts = {**variables["params"], **objectives["params"], "codes": book.sums}
        return parts, terms

    parts, terms = jax.eval_shape(init, jax.random.key(0), input_shapes(config))
    return trainer, parts, set(terms)


def count(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_parameters_of_every_part() -> None:
    trainer, params, _ = shapes("paper")
    assert trainer.objectives.critic_names == ("club",)
    decoders = params["reconstruction"]
    parts = {
        "semantic video": count([params["pools_video"], params["semantics_video"]]),
        "semantic current": count(params["semantics_current"]),
        "specific video": count(params["specifics_video"]),
        "specific current": count(params["specifics_current"]),
        "decoder video": count(decoders["networks_video"]),
        "decoder current": count(decoders["networks_current"]),
        "cross-CPC": count(params["cross_cpc"]),
        "CLUB": count(params["club"]),
        "codes": count(params["codes"]),
    }
    assert sum(parts.values()) == count(params)
    layer = 4 * (256 * 256 + 256) + 2 * 256 * 1024 + 1024 + 256 + 4 * 256
    attention = 2 * 512 * 64 + 64 + 512 + 2 * (512 * 256 + 256) + 257
    residual = 9 * 2048 * 1024 + 1024 + 1024 * 2048 + 2048
    lstm = 2 * (8 * 256 * 256 + 4 * 256)
    assert parts == {
        "semantic video": attention + 512 * 256 + 256 + 2 * layer,
        "semantic current": 128 * 256 + 256 + 2 * layer,
        "specific video": 9 * 512 * 1024
        + 1024
        + 9 * 1024 * 2048
        + 2048
        + 2048**2
        + 2048
        + residual
        + 2048**2
        + 2048
        + 2048 * 512
        + 512,
        "specific current": 128 * 256 + 256,
        "decoder video": 256 * 2048
        + 2048
        + 2 * 2048 * 2048
        + 2048
        + residual
        + 9 * 2048 * 1024
        + 1024
        + 9 * 1024 * 512
        + 512,
        "decoder current": 256 * 256 + 256 + 2 * 256 * 128 + 128,
        "cross-CPC": 2 * (lstm + 256 * 256),
        "CLUB": sum(
            2 * (256 * 128 + 128 + 2 * (128 * 128 + 128) + 128 * s + s)
            for s in (512, 256)
        ),
        "codes": 400 * 256,
    }


def test_total_is_the_papers_without_its_unused_heads() -> None:
    _, params, _ = shapes("paper")
    assert count(params) == 114_111_937 == pytest.approx(117.4e6, rel=0.03)


@pytest.mark.parametrize("variant", ["paper", "smoke"])
def test_losses_and_their_weights(variant: str) -> None:
    trainer, _, reported = shapes(variant)
    terms = {
        "reconstruction": 1.0,
        "commitment": 1.0,
        "code_matching": 0.5,
        "cross_cpc": 1.0,
        "club": 1.0,
    }
    assert trainer.weights == terms | {"window_contrast": 0.0}
    assert set(trainer.objectives.terms) == set(terms)
    assert reported == set(terms)
    described = trainer.objectives.terms
    assert described["commitment"]["weights"] == COMMITMENT
    assert described["cross_cpc"]["weights"] == CPC
    assert described["cross_cpc"]["steps"] == 1
    assert described["cross_cpc"]["starts"] == "random"
    for name in ("cross_cpc", "code_matching"):
        assert described[name]["learns_from"] is None, "symmetric"
    assert set(described["reconstruction"]["decoders"]) == {"video", "current"}


def test_what_the_paper_takes_from_the_default_has_not_moved() -> None:
    """What the file itself does not set, and another config may want otherwise."""
    config = shapes("paper")[0].config
    transformer = config.model.transformer
    assert (transformer.layers, transformer.heads) == (2, 4)
    assert (transformer.dropout, transformer.positions) == (0.1, "none")
    assert config.time_warp.to_dict() == {"stretch": 0.0, "shift": 0.0}
    assert config.data.lead_s == 0
    assert not config.data.draw_lead
    assert config.data.batch_from == "all"
    assert config.optimizer.weight_decay == 0


@pytest.mark.parametrize("variant", ["paper", "tuned", "smoke"])
def test_modalities_are_treated_alike(variant: str) -> None:
    config = CMG_PAPER.get_config(variant)
    terms = config.objectives
    tables = {
        "ema_mix": config.codebook.ema_mix,
        "commitment": terms.commitment.weights,
        "cross_cpc": terms.cross_cpc.weights,
    }
    other = {"video": "current", "current": "video"}
    for name, table in tables.items():
        swapped = {
            other[student]: {other[teacher]: value for teacher, value in row.items()}
            for student, row in table.items()
        }
        assert swapped == table.to_dict(), name


def test_steps_are_clipped_as_in_the_paper() -> None:
    trainer, _, _ = shapes("paper")
    gradient = jnp.full(4, 10.0)
    _, (_, (adam, *_)) = trainer.optimizer.update(
        gradient, trainer.optimizer.init(gradient), gradient
    )
    assert float(jnp.linalg.norm(adam.mu)) == pytest.approx(0.1 * 0.5, rel=1e-5)
    update, _ = trainer.critic_optimizer.update(
        gradient, trainer.critic_optimizer.init(gradient)
    )
    np.testing.assert_allclose(update, -1e-3, rtol=1e-5)


def test_learning_rate_halves_at_epochs_10_20_30() -> None:
    trainer, _, _ = shapes("paper")
    at = {epoch: float(trainer.schedule(10 * epoch)) for epoch in (0, 9, 11, 21, 31)}
    assert at == pytest.approx({0: 4e-4, 9: 4e-4, 11: 2e-4, 21: 1e-4, 31: 5e-5})


def test_smoke_is_the_same_in_miniature() -> None:
    _, paper, _ = shapes("paper")
    _, smoke, _ = shapes("smoke")
    assert jax.tree.structure(paper) == jax.tree.structure(smoke)
    assert count(smoke) < count(paper) / 100


def test_tuned_is_the_papers_architecture() -> None:
    paper, tuned = map(CMG_PAPER.get_config, ("paper", "tuned"))
    assert tuned.model.to_dict() == paper.model.to_dict()
    assert tuned.objectives.club.weight == 0.01
    tuned.objectives.club.weight = paper.objectives.club.weight
    assert tuned.objectives.to_dict() == paper.objectives.to_dict()


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variants paper, tuned, smoke.*got 'tiny'"):
        CMG_PAPER.get_config("tiny")
