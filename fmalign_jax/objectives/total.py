"""All loss terms of a config, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fmalign_jax.config.build import build, load
from fmalign_jax.systems.features import Features
from fmalign_jax.systems.system import make_system

NO_LABELS = "L0"
"""The level of a run that no label reaches; only such a run is zero-shot."""
LABELS = {
    NO_LABELS: "no label reaches the representation",
    "L1": "labels of one modality shape the representation",
    "L2": "labels of what is tested shape the representation",
}
"""By level, in rising order, what labels have to do with a run."""


class Objectives(nn.Module):
    """The loss terms by name; weighting and summing is the train step's.

    A term is any Linen module called as ``term(features, train=train) -> (loss [B],
    metrics)``. One that has a method ``critic_loss(features) -> scalar`` is a critic:
    all its parameters are fitted by that loss. The parameters of each term lie in
    ``params[<term name>]``, so that critics are split off by name. A term with a field
    `second_views` finds ``features.second_view`` of those in training. What
    it needs beside `Features`, it names in a class attribute `needs`; the random keys
    that it draws from in training, in `random_streams`. A class attribute `labels`, a
    level of `LABELS`, gives it ``features.label``. A term with a field `term` applies
    that one elsewhere, and is what that one is.

    Attributes:
      terms: by term name ``{"name": dotted name, **options}``; the keys "weight" and
        "from_epoch" are left to the train step.
      dtype: of what terms compute, where they have such a field; losses are fp32.
    """

    terms: Mapping[str, Mapping[str, Any]]
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Builds the terms as attributes, so that parameters lie under their names."""
        for name, entry in self.terms.items():
            if hasattr(self, name):
                raise ValueError(
                    f"{name!r} is not free as the name of an objective; rename it in "
                    "the config"
                )
            options = _options(entry)
            setattr(self, name, build(options, f"objective {name!r}", dtype=self.dtype))

    @property
    def critic_names(self) -> tuple[str, ...]:
        """Names of the terms that are critics, in the order of the config."""
        return tuple(
            name
            for name, entry in self.terms.items()
            if all(hasattr(kind, "critic_loss") for kind in _nested(entry))
        )

    @property
    def random_streams(self) -> tuple[str, ...]:
        """Names of the random keys that some term draws from in training."""
        asked = (
            getattr(kind, "random_streams", ())
            for entry in self.terms.values()
            for kind in _nested(entry)
        )
        return tuple(sorted({name for names in asked for name in names}))

    @property
    def second_views(self) -> tuple[str, ...]:
        """Views of a system of which some term compares two augmented ones."""
        asked = (entry.get("second_views", ()) for entry in self.terms.values())
        return tuple(sorted({name for names in asked for name in names}))

    @property
    def labels(self) -> str:
        """The highest level of labels that some term asks for."""
        asked = (
            getattr(kind, "labels", NO_LABELS)
            for entry in self.terms.values()
            for kind in _nested(entry)
        )
        return max(asked, default=NO_LABELS)

    def __call__(
        self, features: Features, *, train: bool
    ) -> tuple[dict[str, Float[Array, " B"]], dict[str, Array]]:
        """Evaluates every term.

        Returns:
          Loss of each term [B], unweighted and 0 where masked; metrics of all terms,
          scalars or [B] (to be averaged over the windows that count).

        Raises:
          ValueError: when a term's options do not fit it, the system does not give
            what it needs, or two terms report a metric of the same name.
        """
        term_losses = {}
        metrics: dict[str, Array] = {}
        for name in self.terms:
            self._check_given(name, features)
            loss, term_metrics = getattr(self, name)(features, train=train)
            term_losses[name] = jnp.where(features.mask, loss, 0.0)
            if taken := sorted(metrics.keys() & term_metrics.keys()):
                raise ValueError(
                    f"metrics must have different names; got {taken} again from "
                    f"objective {name!r}; use a term once"
                )
            metrics |= term_metrics
        return term_losses, metrics

    def _check_given(self, name: str, features: Features) -> None:
        """Refuses a term that asks for what the system does not give."""
        needs = getattr(getattr(self, name), "needs", ())
        if lacking := [n for n in needs if getattr(features, n, None) is None]:
            raise ValueError(
                f"objective {name!r} needs the features {', '.join(needs)}; the system "
                f"gives no {', '.join(lacking)} ({type(features).__name__}); set its "
                "weight to 0 or choose another config.model.name"
            )

    def critic_loss(
        self, features: Features, started: Mapping[str, Array] | None = None
    ) -> Float[Array, ""]:
        """Returns the sum of the critics' own losses, for the inner optimiser.

        Args:
          features: of a batch.
          started: 0 or 1 of each that starts later than the training.
        """
        total = jnp.zeros(())
        for name in self.critic_names:
            loss = getattr(self, name).critic_loss(features)
            total += loss * started[name] if started and name in started else loss
        return total


def _nested(entry: Mapping[str, Any]) -> list[Any]:
    """Returns the class of a term, and of the term that it applies elsewhere."""
    own = load(entry.get("name", ""))
    return [
        own,
        *(_nested(entry["term"]) if isinstance(entry.get("term"), Mapping) else ()),
    ]


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an entry without what the train step reads of it."""
    return {k: v for k, v in entry.items() if k not in ("weight", "from_epoch")}


def make_objectives(config: ConfigDict) -> Objectives:
    """Builds the terms of a config that have a weight."""
    terms = {
        name: _options(term)
        for name, term in config.objectives.to_dict().items()
        if term["weight"] != 0
    }
    return Objectives(terms=terms, dtype=jnp.dtype(config.compute_dtype))


def label_level(config: ConfigDict) -> str:
    """Returns the level of `LABELS` of a run, by its config."""
    system = "L2" if make_system(config).uses_labels else NO_LABELS
    return max(system, make_objectives(config).labels)
