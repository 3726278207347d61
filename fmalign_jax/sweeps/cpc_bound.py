"""How much two modalities tell of each other, at least: the bound of Cross-CPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from fmalign_jax.config.build import load
from fmalign_jax.config.pair_tables import pair_entries
from fmalign_jax.objectives.cross_cpc import CrossCpc
from fmalign_jax.training import preprocess
from fmalign_jax.training.metrics import Mean
from fmalign_jax.training.state import Trainer, TrainState, encode


def cross_cpc_bound(
    trainer: Trainer, state: TrainState, batch: Mapping[str, Any]
) -> dict[str, Mean]:
    """Returns ``cpc_bound``, nats: log N - L, the mean over the cross-modal pairs.

    L is InfoNCE over the N windows of the batch; no mutual information between context
    and target lies below the expectation of log N - L (van den Oord et al. 2018,
    section 2.3). It cannot exceed log N, and is below 0 where the model does worse than
    chance. Runs inside a compiled evaluation.

    Returns:
      Nothing where the run has no Cross-CPC between two modalities.
    """
    terms = trainer.objectives.terms
    names = [name for name in terms if load(terms[name]["name"]) is CrossCpc]
    if not names:
        return {}
    entry = terms[names[0]]
    weights: dict[str, dict[str, float]] = {}
    for context, target, _ in pair_entries(entry["weights"]):
        if context != target:
            weights.setdefault(context, {})[target] = 1.0
    if not weights:
        return {}
    options = {k: v for k, v in entry.items() if k not in ("name", "weight", "weights")}
    inputs = preprocess.normalise(batch["streams"], state.statistics)
    features = encode(
        trainer, state.params["model"], state.model_state, inputs, batch, train=False
    )
    loss, _ = CrossCpc(weights=weights, **options).apply(
        {"params": state.params["objectives"][names[0]]}, features, train=False
    )
    pairs = sum(map(len, weights.values()))
    windows = batch["mask"].sum()
    return {"cpc_bound": Mean.of(jnp.log(windows) - loss / pairs, batch["mask"])}
