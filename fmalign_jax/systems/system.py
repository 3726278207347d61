"""What a system is: a Linen module that encodes modalities, and the state it keeps.

Training, checkpoints, evaluation and everything after them use a run's system by this
interface alone. Another system is one file beside this one and one config entry,
``config.model.name``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.config.build import build
from fmalign_jax.config.saved import ABSENT
from fmalign_jax.systems.features import Features

ModelState = dict[str, PyTree]
"""What a system keeps beside its parameters and updates outside the gradient, by name:
in a checkpoint each entry stands in the item `model`. Empty if it keeps nothing."""


FUSED = "fused"
"""The view of all modalities of a window together. It tells of none of them alone, so
that nothing learnt from it is zero-shot."""


class SharedEncoding(NamedTuple):
    """One modality of a batch at the level that all modalities share.

    Attributes:
      variates: fp32, what of the features of each tick that the level looks at the
        modalities share.
      codes: the shared code of each segment of a window.
    """

    variates: Float[Array, "B t r"]
    codes: Int[Array, "B S"]


class Encoding(NamedTuple):
    """One modality of a batch, encoded.

    Attributes:
      features: fp32, continuous.
      codes: the code of each feature; None for a system without a codebook.
      shared: None for a system without a shared level.
      compared: fp32, vectors of each tick: two ticks are as similar as those of them
        whose inner product is largest. What a system's own `similarity` compares in
        place of features, and the search for the lead by it; None for a system that
        compares features.
      lower_codes: of a system with two codebooks, the code of the second one, whose
        vectors are its `lower_vectors`; None for others.
    """

    features: Float[Array, "B T D"]
    codes: Int[Array, "B T"] | None
    shared: SharedEncoding | None = None
    compared: Float[Array, "B T s K"] | None = None
    lower_codes: Int[Array, "B T"] | None = None


@runtime_checkable
class Statistics(Protocol):
    """Sums and counts over batches, a pytree."""

    def merge(self, other: Any) -> Any:
        """Returns those of both."""

    def compute(self) -> dict[str, Float[Array, ""]]:
        """Returns the values to report, by name."""


@runtime_checkable
class System(Protocol):
    """A whole way to align modalities, as a Linen module.

    Its fields are what ``config.model`` gives, and of `dtype` and `codebook`
    (``config.codebook``) those it has.

    `__call__` and `semantic` are applied with parameters; `encode` too. The others are
    plain: they use the fields of the module, never its submodules.

    Attributes:
      modalities: by name what each of them is built of.
      uses_labels: whether its inputs hold labels; a run is then not label-free, as one
        whose objectives ask for labels.
      encodes_alone: whether each modality is encoded from its own input alone, whatever
        else is given. If not, nothing that two encoded modalities share is evidence.
      has_codes: whether `encode` gives codes.
      has_shared_level: whether it also gives a shared level, and `fit_shared` fits it.
      random_streams: names of the random keys that it draws from in training.
    """

    modalities: Mapping[str, Any]
    uses_labels: bool
    encodes_alone: bool
    has_codes: bool
    has_shared_level: bool
    random_streams: tuple[str, ...]

    @property
    def views(self) -> tuple[str, ...]:
        """Returns what can be encoded: each modality; `FUSED` where there is such."""

    @property
    def slots_are_ticks(self) -> bool:
        """Returns whether there is one vector of features a tick.

        If not, they belong to the window as a whole: [B, S, D] of S slots.
        """

    @property
    def has_lower_codes(self) -> bool:
        """Returns whether `encode` also gives codes of a second codebook."""

    def __call__(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        mask: Bool[Array, " B"],
        *,
        train: bool,
    ) -> Features:
        """Returns all that the objectives see of a batch; changes no state."""

    def semantic(
        self, inputs: Mapping[str, Array], *, train: bool, context: bool = True
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns continuous features of each modality, from its own input alone.

        Given all modalities, also those of the view `FUSED` if the system has it.

        Args:
          inputs: by modality [B, T, R, ...], normalised.
          train: whether dropout acts.
          context: False for the features that each tick has by itself: no more than
            its next neighbours in time may reach it, and not its place in the window.
            What is trained at a lead shifts features that see a whole window by as
            much; these it cannot shift. They are one a tick, [B, T, D], of every
            system.
        """

    def second_view(
        self, inputs: Mapping[str, Array], *, train: bool
    ) -> dict[str, Float[Array, "B T D"]]:
        """Returns what `Features.semantic` holds, of a further view of the windows."""

    def encode(
        self,
        inputs: Mapping[str, Array],
        model_state: ModelState,
        views: Iterable[str],
        *,
        context: bool = True,
    ) -> dict[str, Encoding]:
        """Returns the given views as evaluation sees them, without dropout.

        `context` is that of `semantic`.
        """

    def empty_model_state(self) -> ModelState:
        """Returns a state of the right shapes, for parameters to be made with."""

    def init_model_state(
        self, key: Key[Array, ""], semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> ModelState:
        """Returns the first state, from what untrained encoders make of a batch."""

    def update_model_state(
        self, model_state: ModelState, features: Any, key: Key[Array, ""]
    ) -> tuple[ModelState, dict[str, Array]]:
        """Returns the state after a training step, and what to log of it."""

    def shared_features(
        self, semantic: Mapping[str, Float[Array, "B T D"]]
    ) -> dict[str, Float[Array, "B S D"]]:
        """Returns the features of each segment of a window, for `fit_shared`."""

    def fit_shared(
        self,
        model_state: ModelState,
        features: Mapping[str, Float[ndarray, "N D"]],
    ) -> ModelState:
        """Returns a state whose shared level is fitted to paired rows, on the host.

        In closed form and without labels; what training changes does not depend on it.
        """

    def read_shared(
        self, model_state: ModelState, features: Mapping[str, Float[Array, "B S D"]]
    ) -> dict[str, SharedEncoding]:
        """Returns what the shared level makes of segments; a segment is one tick."""

    def shared_vectors(self, model_state: ModelState) -> Float[Array, "K r"] | None:
        """Returns the vector of each shared code; None without a shared level."""

    def code_vectors(self, model_state: ModelState) -> Float[Array, "M D"] | None:
        """Returns the vector of each code; None for a system without a codebook."""

    def lower_vectors(self, model_state: ModelState) -> Float[Array, "M D"] | None:
        """Returns those of the second codebook; None for a system without one."""

    def statistics(self, features: Any) -> Statistics:
        """Returns what is counted over the windows of a batch."""

    def histograms(self, model_state: ModelState) -> dict[str, Array]:
        """Returns what is worth a histogram at every validation, by name."""


def inputs_of(views: Iterable[str], modalities: Iterable[str]) -> tuple[str, ...]:
    """Returns the modalities that views are made of: of `FUSED` all.

    Args:
      views: of a system.
      modalities: all of the system's.

    >>> inputs_of(["video"], ["video", "current"])
    ('video',)
    >>> inputs_of(["fused"], ["video", "current"])
    ('video', 'current')
    """
    asked = tuple(dict.fromkeys(views))
    return tuple(modalities) if FUSED in asked else asked


def make_system(config: ConfigDict, modalities: Iterable[str] | None = None) -> Any:
    """Builds the system that a config names.

    Args:
      config: of a run.
      modalities: of them alone; by default all.

    Raises:
      ValueError: the config gives the system what it does not know, or too little.
    """
    entry = {"name": ABSENT["model.name"], **config.model.to_dict()}
    if modalities is not None:
        entry["modalities"] = {name: entry["modalities"][name] for name in modalities}
    settings = {"dtype": jnp.dtype(config.compute_dtype)}
    if "codebook" in config:
        settings["codebook"] = config.codebook.to_dict()
    return build(entry, "model", **settings)
