"""The compiled programs of several runs at once: those of one run under `jax.vmap`.

The states of N members are one TrainState whose arrays have a leading axis N. What all
members share (the step, the statistics of the video, the video itself) has none, so
that it is read, moved and augmented once for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from ml_collections import ConfigDict

from fmalign_jax.sweeps.cpc_bound import cross_cpc_bound
from fmalign_jax.sweeps.members import differing
from fmalign_jax.training import preprocess, resident, step as train_step
from fmalign_jax.training.state import (
    RUNS_ONCE,
    Trainer,
    TrainState,
    fresh_state,
    make_trainer,
)
from fmalign_jax.training.step import Batch, Metrics

_LEAD, _ORDER = "lead", "order"  # which of the leads and of the orders is a member's


class VmappedRuns:
    """First states, train step and evaluation of all members, each compiled once.

    Batches come with a leading axis S: one for each order of the windows, which the
    seed decides. Their leading stream holds the samples of L leads, side by side in
    each tick: [S, B, T, L * R, ...]. They may hold window indices alone, for windows
    that lie on the device (`resident.place`) and are given too.
    """

    def __init__(
        self,
        configs: Sequence[ConfigDict],
        statistics: Mapping[str, Mapping[str, Any]],
        *,
        steps_per_epoch: int,
        steps: int,
        mesh: Mesh,
    ) -> None:
        """Prepares the programs; compiles nothing yet.

        Args:
          configs: of the members, as from `member_configs`.
          statistics: mean and std by modality: [L, C] of the leading stream if there
            are several leads, else [C]; of the others [C].
          steps_per_epoch: as of `make_trainer`.
          steps: as of `make_trainer`.
          mesh: of one device.
        """
        self._config = configs[0]
        self._like = make_trainer(
            self._config, steps_per_epoch=steps_per_epoch, steps=steps
        )
        self._mesh = mesh
        self._members = len(configs)
        self.leads_s = sorted({config.data.lead_s for config in configs})
        self.seeds = sorted({config.seed for config in configs})
        own = differing(configs)
        if len(self.leads_s) > 1:
            places = [self.leads_s.index(config.data.lead_s) for config in configs]
            own[_LEAD] = np.asarray(places, np.int32)
        if len(self.seeds) > 1:
            places = [self.seeds.index(config.seed) for config in configs]
            own[_ORDER] = np.asarray(places, np.int32)
        # What is each member's own is an argument, not a part of the program: other
        # seeds, leads and rates find it compiled.
        self._own = {key: jnp.asarray(values) for key, values in own.items()}
        self._statistics = dict(statistics)
        several = configs[0].data.leading_stream if _LEAD in own else None
        if several is not None and several in statistics:
            self._statistics[several] = jax.tree.map(
                lambda x: x[own[_LEAD]], statistics[several]
            )
        # Where the members' axis is in each part of the states.
        parts = (
            "params",
            "model_state",
            "opt_state",
            "critic_params",
            "critic_opt_state",
        )
        places_by_part: dict[str, Any] = dict.fromkeys(parts, 0) | {
            "step": None,
            "statistics": {n: 0 if n == several else None for n in statistics},
        }
        self._axes = axes = TrainState(**places_by_part)
        # One member after the other: products of all together, not optimised, would
        # take minutes on a CPU.
        self._init = jax.jit(self._first_state, compiler_options=RUNS_ONCE)
        self._train_step = jax.jit(
            self._of_all(self._update, (axes, None, None), (axes, 0)), donate_argnums=1
        )
        self._eval_step = jax.jit(self._of_all(self._evaluate, (axes, None, None), 0))

    def first_states(self, batch: Batch) -> TrainState:
        """Returns the states before the first step.

        Args:
          batch: of each order, drawn apart from the training ones.
        """
        by_member = [
            self._init(
                {key: values[i] for key, values in self._own.items()},
                batch,
                _member(self._axes.statistics, self._statistics, i),
            )
            for i in range(self._members)
        ]
        states: TrainState = _every_axis(
            lambda axis, first, *others: (
                first
                if axis is None
                else jax.tree.map(lambda *x: jnp.stack(x), first, *others)
            ),
            self._axes,
            *by_member,
        )
        return states

    def train_step(
        self, states: TrainState, batch: Batch, windows: Any = None
    ) -> tuple[TrainState, Metrics]:
        """Returns the states after a step, and metrics with a leading axis N.

        It takes over (donates) the states it is given.
        """
        stepped: tuple[TrainState, Metrics] = self._train_step(
            self._own, states, batch, windows
        )
        return stepped

    def evaluate(
        self, states: TrainState, batch: Batch, windows: Any = None
    ) -> Metrics:
        """Returns the metrics of an evaluation batch, with a leading axis N.

        Among the scalars is ``cpc_bound``, where there is Cross-CPC.
        """
        metrics: Metrics = self._eval_step(self._own, states, batch, windows)
        return metrics

    def member(self, states: TrainState, number: int) -> TrainState:
        """Returns the state of one member, as a run of its own has it."""
        if not 0 <= number < self._members:
            raise IndexError(f"member {number} of {self._members}")
        state: TrainState = _member(self._axes, states, number)
        return state

    def _of_all(self, function: Any, in_axes: tuple[Any, ...], out_axes: Any) -> Any:
        return jax.vmap(
            function,
            in_axes=(0, *in_axes),
            out_axes=out_axes,
            axis_size=self._members,
        )

    def _trainer(self, own: Mapping[str, Array]) -> Trainer:
        settings = {k: x for k, x in own.items() if k not in (_LEAD, _ORDER)}
        return self._like.with_numbers(settings)

    def _batch(self, own: Mapping[str, Array], batch: Batch, windows: Any) -> Batch:
        """Returns what one member sees of the batch of all."""
        batch = jax.tree.map(lambda x: x[own.get(_ORDER, 0)], batch)
        if windows is not None:
            ticks = self._config.data.window_ticks
            batch = {**resident.gather(windows, batch["window"], ticks)}
        if _LEAD not in own:
            return batch
        data = self._config.data
        streams = preprocess.at_lead(
            batch["streams"],
            jnp.broadcast_to(own[_LEAD], batch["mask"].shape),
            leading=data.leading_stream,
            samples_per_tick=data.samples_per_tick[data.leading_stream],
        )
        return {**batch, "streams": streams}

    def _first_state(
        self, own: Mapping[str, Array], batch: Batch, statistics: dict[str, Any]
    ) -> TrainState:
        batch = self._batch(own, batch, None)
        return fresh_state(self._trainer(own), batch, statistics)

    def _update(
        self, own: Mapping[str, Array], state: TrainState, batch: Batch, windows: Any
    ) -> tuple[TrainState, Metrics]:
        return train_step.train_on_batch(
            self._trainer(own), self._mesh, state, self._batch(own, batch, windows)
        )

    def _evaluate(
        self, own: Mapping[str, Array], state: TrainState, batch: Batch, windows: Any
    ) -> Metrics:
        # Validation has one order, whatever the seed.
        lead = {key: x for key, x in own.items() if key != _ORDER}
        trainer, batch = self._trainer(own), self._batch(lead, batch, windows)
        metrics = train_step.evaluate_batch(trainer, state, batch)
        bound = cross_cpc_bound(trainer, state, batch)
        return {**metrics, "scalars": metrics["scalars"] | bound}


def _member(axes: Any, tree: Any, number: int) -> Any:
    """Returns what one member has of a tree; `axes` says where all share a part."""
    return _every_axis(
        lambda axis, part: (
            part if axis is None else jax.tree.map(lambda x: x[number], part)
        ),
        axes,
        tree,
    )


def _every_axis(function: Any, axes: Any, *trees: Any) -> Any:
    """Maps over parts of trees and the members' axis in each, None where shared."""
    return jax.tree.map(function, axes, *trees, is_leaf=lambda axis: axis is None)
