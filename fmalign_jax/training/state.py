"""The two halves of training: what changes (TrainState) and what does not (Trainer)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, no_type_check

import flax
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from fmalign_jax.models import linear
from fmalign_jax.objectives.total import NO_LABELS, Objectives, make_objectives
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.initialise import initialise
from fmalign_jax.systems.system import ModelState, make_system
from fmalign_jax.training import joined, preprocess, sharding
from fmalign_jax.training.numbers import numbers_of, with_numbers

Params = Mapping[str, Any]

RUNS_ONCE = {"xla_backend_optimization_level": 0}
"""How to compile a program of this size that runs once: optimising it costs five times
what it takes."""

_RUNS_OFTEN_ON_CPU = {"xla_backend_optimization_level": 2}
"""One level below XLA's own: compiles in 0.8 of the time, and the step is as fast."""


def runs_often(mesh: Mesh) -> dict[str, Any] | None:
    """Returns how to compile what runs at every step; None leaves it to XLA.

    Where the environment's XLA_FLAGS names the level, that stands.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    said = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    return _RUNS_OFTEN_ON_CPU if on_cpu and not said else None


@no_type_check  # as a pytree it also carries shardings and shapes
@flax.struct.dataclass
class TrainState:
    """Everything that training changes, and nothing else.

    Attributes:
      step: number of updates done.
      params: {"model": encoders, "objectives": decoders, CPC networks, ...}.
      model_state: what the system keeps beside its parameters, such as a codebook.
      opt_state: of the outer optimiser, over params, joined (`training.joined`).
      critic_params: parameters of the critics (CLUB), by term.
      critic_opt_state: of the critics' own optimiser, over theirs, joined.
      statistics: mean and std per channel of the training split, by modality.
    """

    step: Int[Array, ""]
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    critic_params: Params
    critic_opt_state: optax.OptState
    statistics: dict[str, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The static half of training: modules, optimisers and settings.

    `model` is the run's system, see `systems.system.System`.
    """

    model: Any
    objectives: Objectives
    optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    config: ConfigDict
    steps_per_epoch: int
    steps: int

    @property
    def weights(self) -> dict[str, Any]:
        """Weight of each objective in the total loss, once it has started."""
        return {name: term.weight for name, term in self.config.objectives.items()}

    def with_numbers(self, values: Mapping[str, Any]) -> Trainer:
        """Returns the same with other numbers; for use inside a compiled function.

        Args:
          values: by dotted key, as from `numbers_of`; arrays, under trace where they
            are arguments.
        """
        # Which terms there are is decided by weights that are known.
        known = {k: x for k, x in values.items() if not k.startswith("objectives.")}
        own = make_trainer(
            with_numbers(self.config, known),
            steps_per_epoch=self.steps_per_epoch,
            steps=self.steps,
        )
        return dataclasses.replace(own, config=with_numbers(self.config, values))

    def started(self, step: Int[Array, ""]) -> dict[str, Any]:
        """Returns 0 or 1 of each objective that starts later than the training."""
        first_steps = {
            name: round(term.get("from_epoch", 0.0) * self.steps_per_epoch)
            for name, term in self.config.objectives.items()
        }
        return {
            name: (step >= first).astype(jnp.float32)
            for name, first in first_steps.items()
            if first
        }


def make_schedule(
    config: ConfigDict, *, steps_per_epoch: int, steps: int
) -> optax.Schedule:
    """Returns the learning rate by step.

    A linear warm-up to `learning_rate`, then "constant", "cosine" (to zero at `steps`)
    or "halving" at each epoch of `halve_at_epochs` (the paper's).
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(rate)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(steps - warmup, 1))
    elif config.schedule == "halving":
        halvings = {
            round(epoch * steps_per_epoch) - warmup: 0.5
            for epoch in config.halve_at_epochs
        }
        after = optax.piecewise_constant_schedule(rate, halvings)
    else:
        raise ValueError(
            "optimizer.schedule must be 'constant', 'cosine' or 'halving'; got "
            f"{config.schedule!r}; correct the config"
        )
    # Not optax's own warm-ups: without steps, one of them stays at 0 for ever.
    return optax.join_schedules(
        [optax.linear_schedule(0.0, rate, warmup), after], [warmup]
    )


def make_trainer(config: ConfigDict, *, steps_per_epoch: int, steps: int) -> Trainer:
    """Builds the modules and optimisers that a config describes.

    Args:
      config: as from `default_config`.
      steps_per_epoch: training batches in one pass over the training windows.
      steps: updates in the whole run, for schedules that end.
    """
    schedule = make_schedule(
        config.optimizer, steps_per_epoch=steps_per_epoch, steps=steps
    )
    return Trainer(
        model=make_system(config),
        objectives=make_objectives(config),
        optimizer=optax.chain(
            optax.clip_by_global_norm(config.optimizer.clip_norm),
            optax.adamw(
                schedule,
                eps=config.optimizer.epsilon,
                weight_decay=config.optimizer.weight_decay,
                mask=joined.decays,
            ),
        ),
        critic_optimizer=optax.adam(
            config.optimizer.critic_learning_rate, eps=config.optimizer.epsilon
        ),
        schedule=schedule,
        config=config,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
    )


def init_state(
    trainer: Trainer,
    batch: Mapping[str, Any],
    statistics: Mapping[str, Any],
    mesh: Mesh,
) -> TrainState:
    """Returns the state before the first step, laid out as the train step keeps it.

    What the system keeps beside its parameters, such as codes, is made of what the
    untrained encoders give for `batch`.
    """
    return make_init(trainer, mesh)(batch, statistics)


def make_init(trainer: Trainer, mesh: Mesh) -> functools.partial[TrainState]:
    """Returns the compiled `init_state`; the numbers of the config are given to it."""

    def init(values: Any, batch: Any, statistics: Any) -> TrainState:
        own = trainer.with_numbers(values)
        return shard_optimizer(own, fresh_state(own, batch, statistics), mesh)

    compiled = jax.jit(
        init, out_shardings=state_sharding(trainer, mesh), compiler_options=RUNS_ONCE
    )
    return functools.partial(compiled, numbers_of(trainer.config))


def state_sharding(trainer: Trainer, mesh: Mesh) -> TrainState:
    """Returns where a compiled function leaves the state, field by field.

    Whole on every device; None where `shard_optimizer` has said it array by array.
    """
    everywhere = sharding.replicated(mesh)
    names = [field.name for field in dataclasses.fields(TrainState)]
    fields: dict[str, Any] = dict.fromkeys(names, everywhere)
    if trainer.config.optimizer.shard_state:
        fields["opt_state"] = None
    return TrainState(**fields)


def shard_optimizer(trainer: Trainer, state: TrainState, mesh: Mesh) -> TrainState:
    """Leaves each device, if the config asks for it, its part of what Adam remembers.

    For use inside a compiled function; the compiler then lets each device compute only
    its part of the update (ZeRO stage 1, Rajbhandari et al. 2020).
    """
    if not trainer.config.optimizer.shard_state:
        return state
    layout = sharding.divided(state.opt_state, mesh)
    parts = jax.lax.with_sharding_constraint(state.opt_state, layout)
    return dataclasses.replace(state, opt_state=parts)


def fresh_state(
    trainer: Trainer, batch: Mapping[str, Any], statistics: dict[str, Any]
) -> TrainState:
    """Returns the state before the first step; to be compiled, see `init_state`."""
    config = trainer.config
    model_key, objectives_key, state_key = jax.random.split(
        jax.random.key(config.seed), 3
    )
    streams = batch["streams"]
    if config.data.draw_lead:
        streams = preprocess.at_lead(
            streams,
            jnp.zeros(len(batch["mask"]), jnp.int32),
            leading=config.data.leading_stream,
            samples_per_tick=config.data.samples_per_tick[config.data.leading_stream],
        )
    inputs = preprocess.normalise(streams, statistics)
    params, model_state = initialise(
        trainer.model,
        model_key,
        state_key,
        inputs,
        batch["mask"],
        standardise=config.standardise_projections,
    )
    features = encode(trainer, params, model_state, inputs, batch, train=False)
    terms = linear.init(trainer.objectives, objectives_key, features, train=False)
    terms = dict(terms.get("params", {}))
    critics = {name: terms.pop(name) for name in trainer.objectives.critic_names}
    params = {"model": params, "objectives": terms}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=trainer.optimizer.init(joined.join(params)[0]),
        critic_params=critics,
        critic_opt_state=trainer.critic_optimizer.init(joined.join(critics)[0]),
        statistics=statistics,
    )


def encode(
    trainer: Trainer,
    params: Params,
    model_state: ModelState,
    inputs: Mapping[str, Array],
    batch: Mapping[str, Any],
    *,
    train: bool,
    rngs: dict[str, Array] | None = None,
) -> Features:
    """Runs the model on a batch; returns all that the objectives see.

    Args:
      trainer: the static half.
      params: of the model.
      model_state: what the system keeps beside its parameters.
      inputs: by modality, normalised.
      batch: the batch the inputs are of.
      train: whether dropout acts.
      rngs: random keys by stream, in training.
    """
    features: Any = trainer.model.apply(
        {"params": params}, inputs, model_state, batch["mask"], train=train, rngs=rngs
    )
    # Where no term asks for labels, nothing in the program may read them.
    asked = trainer.objectives.labels != NO_LABELS
    return dataclasses.replace(
        features,
        recording=batch["recording"],
        time_s=batch["time_s"],
        label=batch["label"] if asked else None,
    )
