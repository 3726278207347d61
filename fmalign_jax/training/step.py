"""The compiled steps: train (state, batch) -> (state, metrics), and evaluation.

Order of one train step (METHOD sections 2-6):
  1. inputs: read windows that lie on the device; normalise and augment;
  2. encode, with the model state (such as a codebook) as it stands;
  3. critics (the CLUB networks): a few likelihood steps on detached features;
  4. losses with the updated critics; gradients of everything else; Adam;
  5. the model state takes its own step, outside the gradient (the EMA of a codebook).
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt
from ml_collections import ConfigDict

from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import inputs_of
from fmalign_jax.training import augment, preprocess, resident, sharding
from fmalign_jax.training.joined import join
from fmalign_jax.training.metrics import Mean
from fmalign_jax.training.numbers import numbers_of
from fmalign_jax.training.state import (
    Trainer,
    TrainState,
    encode,
    runs_often,
    shard_optimizer,
    state_sharding,
)

Batch = Mapping[str, Any]
Metrics = dict[str, Any]
"""{"scalars": name -> scalar or Mean, "statistics": of the system}, on the device."""

_OWN_STREAMS = ("lead", "augment", "second_view", "revive")
"""What the step itself draws from. The last is for the update of the model state: the
name of its first use, kept so that saved runs go on with the same numbers."""


def random_streams(trainer: Trainer) -> tuple[str, ...]:
    """Returns the names of all that draws random numbers in a step."""
    asked = (*trainer.model.random_streams, *trainer.objectives.random_streams)
    return tuple(dict.fromkeys((*_OWN_STREAMS, *asked)))


def step_keys(
    seed: int | Int[Array, ""] | UInt[Array, ""],
    step: Int[Array, ""],
    names: Sequence[str],
) -> dict[str, Key[Array, ""]]:
    """Returns the random key of each named use in one step.

    They depend on (seed, step, name) alone: the same after a resume, on any devices.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}


def make_train_step(
    trainer: Trainer, mesh: Mesh
) -> functools.partial[tuple[TrainState, Metrics]]:
    """Returns the compiled step; it takes over (donates) the state it is given.

    Its arguments are the state, a batch and, if that holds window indices alone, the
    windows on the device (`resident.place`). The numbers of the config are arguments of
    the program too, already given: ``step.func`` is what is compiled, ``step.args``
    are they.
    """
    return _compiled(train_on_batch, trainer, mesh)


def make_train_steps(
    trainer: Trainer, mesh: Mesh
) -> functools.partial[tuple[TrainState, Metrics]]:
    """Returns compiled steps on several batches, one after the other in one call.

    As `make_train_step`, but it takes a list of batches, and each metric comes with
    one leading axis, the steps. Compiled once for each number of batches.
    """
    return _compiled(_train_on_batches, trainer, mesh)


def make_eval_step(trainer: Trainer, mesh: Mesh) -> functools.partial[Metrics]:
    """Returns the compiled evaluation of one batch; it changes nothing.

    Its arguments are those of the train step.
    """

    def evaluate(values: Any, *arguments: Any) -> Metrics:
        return evaluate_batch(trainer.with_numbers(values), *arguments)

    compiled = jax.jit(
        evaluate,
        out_shardings=sharding.replicated(mesh),
        compiler_options=runs_often(mesh),
    )
    return functools.partial(compiled, _placed_numbers(trainer, mesh))


def _compiled(
    function: Callable[..., Any], trainer: Trainer, mesh: Mesh
) -> functools.partial[tuple[TrainState, Metrics]]:
    def update(values: Any, *arguments: Any) -> tuple[TrainState, Metrics]:
        stepped: tuple[TrainState, Metrics] = function(
            trainer.with_numbers(values), mesh, *arguments
        )
        return stepped

    update.__name__ = function.__name__  # by which a profile names the program
    compiled = jax.jit(
        update,
        donate_argnums=1,
        out_shardings=(state_sharding(trainer, mesh), sharding.replicated(mesh)),
        compiler_options=runs_often(mesh),
    )
    return functools.partial(compiled, _placed_numbers(trainer, mesh))


def _placed_numbers(trainer: Trainer, mesh: Mesh) -> dict[str, Any]:
    return sharding.place_replicated(numbers_of(trainer.config), mesh)


def _train_on_batches(
    trainer: Trainer,
    mesh: Mesh,
    state: TrainState,
    batches: Sequence[Batch],
    windows: Any = None,
) -> tuple[TrainState, Metrics]:
    if len(batches) == 1:  # no loop, which a compiler might treat otherwise
        state, metrics = train_on_batch(trainer, mesh, state, batches[0], windows)
        return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(
        lambda state, batch: train_on_batch(trainer, mesh, state, batch, windows),
        state,
        jax.tree.map(lambda *rows: jnp.stack(rows), *batches),
    )


def train_on_batch(
    trainer: Trainer, mesh: Mesh, state: TrainState, batch: Batch, windows: Any = None
) -> tuple[TrainState, Metrics]:
    """Takes one train step; for use inside a compiled function."""
    config = trainer.config
    batch = _read(config, batch, windows)
    keys = step_keys(config.seed, state.step, random_streams(trainer))
    streams = at_drawn_leads(config, keys.pop("lead"), batch["streams"])
    random_view = functools.partial(_random_view, config, streams, state.statistics)
    inputs = random_view(keys.pop("augment"))
    second_key = keys.pop("second_view")
    update_key = keys.pop("revive")

    def loss_fn(params: Any) -> tuple[Float[Array, ""], Any]:
        features = encode(
            trainer,
            params["model"],
            state.model_state,
            inputs,
            batch,
            train=True,
            rngs=keys,
        )
        features = dataclasses.replace(
            features,
            second_view=_second_view(trainer, params["model"], random_view, second_key),
        )
        critics = _fit_critics(trainer, state, jax.lax.stop_gradient(features))
        terms, term_metrics = trainer.objectives.apply(
            {"params": params["objectives"] | jax.lax.stop_gradient(critics[0])},
            features,
            train=True,
            rngs=keys,
        )
        means = {name: jnp.mean(values) for name, values in terms.items()}
        weights = trainer.weights
        for name, started in trainer.started(state.step).items():
            weights[name] *= started
        total = jnp.asarray(sum(weights[name] * means[name] for name in means))
        return total, (features, critics, means, term_metrics)

    (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    features, (critic_params, critic_opt_state), terms, term_metrics = aux
    joined_gradients, _ = join(gradients)
    joined_params, split = join(state.params)
    updates, opt_state = trainer.optimizer.update(
        joined_gradients, state.opt_state, joined_params
    )
    model_state, state_metrics = trainer.model.update_model_state(
        state.model_state, features, update_key
    )
    scalars = {
        "loss": loss,
        **{f"loss/{name}": value for name, value in terms.items()},
        **{name: jnp.mean(value) for name, value in term_metrics.items()},
        "learning_rate": trainer.schedule(state.step),
        "norm/gradient": optax.tree.norm(joined_gradients),  # as clipping takes it
        "norm/parameter": optax.tree.norm(joined_params),
        "norm/update": optax.tree.norm(updates),
        **state_metrics,
    }
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=split(optax.apply_updates(joined_params, updates)),
        model_state=model_state,
        opt_state=opt_state,
        critic_params=critic_params,
        critic_opt_state=critic_opt_state,
    )
    return shard_optimizer(trainer, new_state, mesh), {
        "scalars": scalars,
        "statistics": trainer.model.statistics(features),
    }


def _read(config: ConfigDict, batch: Batch, windows: Any) -> Batch:
    """Returns the batch, read by its numbers if windows lie on the device."""
    if windows is None:
        return batch
    return resident.gather(windows, batch["window"], config.data.window_ticks)


def at_drawn_leads(
    config: ConfigDict, key: Key[Array, ""], streams: Mapping[str, Array]
) -> Mapping[str, Array]:
    """Draws a lead for each window, where the run draws its leads."""
    data = config.data
    if not data.draw_lead:
        return streams
    samples = data.samples_per_tick[data.leading_stream]
    windows, _, slots = streams[data.leading_stream].shape[:3]
    return preprocess.at_lead(
        streams,
        jax.random.randint(key, (windows,), 0, slots // samples),
        leading=data.leading_stream,
        samples_per_tick=samples,
    )


def _random_view(
    config: ConfigDict,
    streams: Mapping[str, Array],
    statistics: Any,
    key: Key[Array, ""],
) -> dict[str, Array]:
    return augment.random_view(
        key,
        streams,
        statistics,
        time_warp=config.time_warp.to_dict(),
        settings=config.augment.to_dict(),
        samples_per_tick=config.data.samples_per_tick.to_dict(),
    )


def _second_view(
    trainer: Trainer,
    params: Any,
    random_view: Callable[[Key[Array, ""]], dict[str, Array]],
    key: Key[Array, ""],
) -> dict[str, Float[Array, "B T D"]]:
    """Encodes, augmented once more, the views that an objective asks for."""
    wanted = trainer.objectives.second_views
    if not wanted:
        return {}
    augment_key, dropout_key = jax.random.split(key)
    augmented = random_view(augment_key)
    encoded: Any = trainer.model.apply(
        {"params": params},
        {name: augmented[name] for name in inputs_of(wanted, augmented)},
        train=True,
        rngs={"dropout": dropout_key},
        method="second_view",
    )
    return {name: encoded[name] for name in wanted}


def _fit_critics(
    trainer: Trainer, state: TrainState, features: Features
) -> tuple[Any, optax.OptState]:
    """Takes the critics' likelihood steps on detached features (METHOD 4)."""
    if not state.critic_params:
        return state.critic_params, state.critic_opt_state

    started = trainer.started(state.step)
    params, split = join(state.critic_params)

    def negative_log_likelihood(params: Any) -> Float[Array, ""]:
        loss: Any = trainer.objectives.apply(
            {"params": params}, features, started, method="critic_loss"
        )
        return jnp.asarray(loss)

    def fit(carry: Any, _: None) -> tuple[Any, None]:
        params, opt_state = carry
        gradients = join(jax.grad(negative_log_likelihood)(split(params)))[0]
        updates, opt_state = trainer.critic_optimizer.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, opt_state), _ = jax.lax.scan(
        fit,
        (params, state.critic_opt_state),
        length=trainer.config.optimizer.critic_steps,
    )
    return split(params), opt_state


def evaluate_batch(
    trainer: Trainer, state: TrainState, batch: Batch, windows: Any = None
) -> Metrics:
    """Evaluates one batch; for use inside a compiled function."""
    batch = _read(trainer.config, batch, windows)
    inputs = preprocess.normalise(batch["streams"], state.statistics)
    features = encode(
        trainer, state.params["model"], state.model_state, inputs, batch, train=False
    )
    terms, term_metrics = trainer.objectives.apply(
        {"params": state.params["objectives"] | state.critic_params},
        features,
        train=False,
    )
    loss = sum(trainer.weights[name] * values for name, values in terms.items())
    per_window = {
        "loss": loss,
        **{f"loss/{name}": values for name, values in terms.items()},
        **term_metrics,
    }
    return {
        "scalars": {
            name: Mean.of(values, batch["mask"]) for name, values in per_window.items()
        },
        "statistics": trainer.model.statistics(features),
    }
