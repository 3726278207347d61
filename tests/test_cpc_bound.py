"""The bound of Cross-CPC, against the loss it is a part of."""

import dataclasses

import jax
import numpy as np
import tiny

from fmalign_jax.objectives.cross_cpc import CrossCpc
from fmalign_jax.sweeps.cpc_bound import cross_cpc_bound
from fmalign_jax.training import preprocess, sharding, state as train_state


def test_it_is_log_n_less_the_loss_of_the_cross_modal_pairs():
    config = tiny.tiny_config()
    weights = config.objectives.cross_cpc.weights.to_dict()
    assert weights["video"]["video"] > 0  # pairs that do not belong to the bound
    trainer, mesh, state = tiny.first_state(config)
    batch = tiny.random_batch(config)
    batch["mask"][6:] = False
    batch = sharding.place_batch(batch, mesh)

    @jax.jit
    def both(state, batch):
        features = train_state.encode(
            trainer,
            state.params["model"],
            state.model_state,
            preprocess.normalise(batch["streams"], state.statistics),
            batch,
            train=False,
        )

        def loss(weights):
            entry = trainer.objectives.terms["cross_cpc"] | {"weights": weights}
            term = CrossCpc(**{k: v for k, v in entry.items() if k != "name"})
            params = {"params": state.params["objectives"]["cross_cpc"]}
            return term.apply(params, features, train=False)[0]

        own = {m: {m: row[m]} for m, row in weights.items()}
        return cross_cpc_bound(trainer, state, batch), loss(weights) - loss(own)

    bound, of_pairs = both(state, batch)
    # Both cross-modal weights are 1; six windows count.
    expected = np.log(6) - np.asarray(of_pairs)[:6] / 2
    assert np.isclose(float(bound["cpc_bound"].compute()), expected.mean(), atol=1e-5)


def test_without_cross_modal_pairs_there_is_none():
    config = tiny.tiny_config()
    config.objectives.cross_cpc.weights = {"video": {"video": 1.0}}
    trainer = train_state.make_trainer(config, steps_per_epoch=1, steps=1)
    fields = [field.name for field in dataclasses.fields(train_state.TrainState)]
    state = train_state.TrainState(**dict.fromkeys(fields))  # not to be looked at
    assert cross_cpc_bound(trainer, state, {}) == {}
    config.objectives.cross_cpc.weight = 0.0
    trainer = train_state.make_trainer(config, steps_per_epoch=1, steps=1)
    assert cross_cpc_bound(trainer, state, {}) == {}
