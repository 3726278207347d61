"""What the members of a sweep read: one video, and the current at several leads.

Windows are those that every lead can read (`data.other_leads_s`), so they are the same
ones for all members. Only the table that says which samples of the leading stream a
tick reads differs; those tables are laid side by side, and a batch then holds its video
once and the current once for each lead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fmalign_jax.data import dataset, pipeline
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.data.windows.statistics import channel_statistics
from fmalign_jax.training import setup


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The prepared recordings and their windows.

    Attributes:
      run: as of a single run, at the first of the leads.
      by_lead: the windows of each split, by lead; a member's own.
      windows: those of all leads, side by side in each tick.
    """

    run: setup.Data
    by_lead: Mapping[float, Mapping[str, WindowIndex]]
    windows: Mapping[str, WindowIndex]


def load_data(configs: Sequence[ConfigDict]) -> SweepData:
    """Opens the data set (prepared when absent) and cuts it into windows.

    Args:
      configs: of the members, as from `member_configs`.
    """
    of_lead = {config.data.lead_s: config for config in configs}
    first, *others = sorted(of_lead)
    run = setup.load_data(of_lead[first])
    by_lead = {first: run.windows} | {
        lead_s: dataset.make_windows(run.store, of_lead[lead_s]) for lead_s in others
    }
    leading = configs[0].data.leading_stream
    windows = {
        split: side_by_side([own[split] for own in by_lead.values()], leading)
        for split in run.windows
    }
    return SweepData(run, by_lead, windows)


def side_by_side(indexes: Sequence[WindowIndex], stream: str) -> WindowIndex:
    """Joins the same windows at L leads: a tick reads [L * R] samples of a stream."""
    first = indexes[0]
    if any(not np.array_equal(first.start, other.start) for other in indexes[1:]):
        raise ValueError("windows to be joined must start at the same ticks")
    if len(indexes) == 1:
        return first
    joined = np.concatenate([own.ticks.samples[stream] for own in indexes], axis=1)
    samples = {**first.ticks.samples, stream: joined}
    return dataclasses.replace(
        first, ticks=dataclasses.replace(first.ticks, samples=samples)
    )


def statistics(data: SweepData, config: ConfigDict) -> dict[str, Any]:
    """Returns mean and std by modality: of the leading stream [L, C], else [C]."""
    leading, store = config.data.leading_stream, data.run.store
    found: dict[str, Any] = {
        **channel_statistics(
            store, data.run.windows["train"], list(config.model.modalities)
        )
    }
    if len(data.by_lead) > 1 and leading in found:
        each = [
            channel_statistics(store, windows["train"], [leading])[leading]
            for windows in data.by_lead.values()
        ]
        found[leading] = jax.tree.map(lambda *rows: np.stack(rows), *each)
    return found


class SweepBatches:
    """Endless training batches with a leading axis: one for each order of windows."""

    def __init__(
        self,
        data: SweepData,
        config: ConfigDict,
        seeds: Sequence[int],
        *,
        indices_only: bool = False,
    ) -> None:
        """Starts reading.

        Args:
          data: of the sweep.
          config: of any member.
          seeds: one for each order, as single runs have them.
          indices_only: give window indices alone, for windows on the device.
        """
        self._orders = [
            pipeline.training_batches(
                data.run.store,
                data.windows["train"],
                batch_size=config.batch_size,
                seed=seed,
                batch_from=config.data.batch_from,
                indices_only=indices_only,
                threads=config.data.read_threads,
                prefetch=config.data.prefetch_batches,
            )
            for seed in seeds
        ]

    def __iter__(self) -> SweepBatches:
        return self

    def __next__(self) -> dict[str, Any]:
        """Returns the next batch, every array [S, ...]."""
        batches = [dict(next(order)) for order in self._orders]
        return jax.tree.map(lambda *rows: np.stack(rows), *batches)

    def get_state(self) -> list[dict[str, Any]]:
        """Returns how far each order was drawn."""
        return [order.get_state() for order in self._orders]

    def set_state(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continues where a state was taken."""
        for order, state in zip(self._orders, states, strict=True):
            order.set_state(state)

    def close(self) -> None:
        """Stops reading ahead."""
        for order in self._orders:
            order.close()
