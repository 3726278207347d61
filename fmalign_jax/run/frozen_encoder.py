"""Frozen encoders, applied to windows of recordings.

Nothing acts that acts in training only: no dropout, no augmentation, no update of a
codebook. Any number of devices may encode; each window is encoded once, and what comes
back is on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.systems.initialise import encoder_parameters
from fmalign_jax.systems.system import Encoding, ModelState, inputs_of, make_system
from fmalign_jax.training import preprocess, sharding
from fmalign_jax.training.state import RUNS_ONCE

_STATE_WINDOWS = 512
_SCALE_WINDOWS = 64


@no_type_check  # as a pytree it also carries tracers and shapes
@flax.struct.dataclass
class EncoderState:
    """What encodes: parameters, model state and input statistics.

    Attributes:
      params: of the system.
      model_state: what it keeps beside them, such as a codebook.
      statistics: mean and std per channel, by modality.
    """

    params: Any
    model_state: ModelState
    statistics: Mapping[str, Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class Encodings:
    """Windows as the encoders see them, on the host.

    Attributes:
      codes: by modality [N, T]; empty for a system without a codebook.
      vectors: [M, C], the codes' vectors, of all D channels or of some that an
        evaluation keeps; None for a system without a codebook.
      semantic: by modality [N, T, D], continuous; empty unless asked for.
      variates: by modality [N, t, r], what the modalities share of each tick that the
        shared level looks at; empty for a system without one.
      shared_codes: by modality [N, S], the shared code of each segment; as `variates`.
      shared_vectors: [K, r], the shared codes' vectors; None without a shared level.
      shared_settings: the run's `codebook.shared`; None without a shared level.
      lower_codes: by modality [N, T], codes of a second codebook; empty without one.
      lower_vectors: [M, D], their vectors, which stand beside the others as features.
      compared: by modality [N, T, s, K], what the system's own similarity compares in
        place of continuous features; as these, and empty for a system that has no such.
    """

    codes: Mapping[str, Int[ndarray, "N T"]]
    vectors: Float[ndarray, "M C"] | None
    semantic: Mapping[str, Float[ndarray, "N T D"]]
    variates: Mapping[str, Float[ndarray, "N t r"]]
    shared_codes: Mapping[str, Int[ndarray, "N S"]]
    shared_vectors: Float[ndarray, "K r"] | None
    shared_settings: Mapping[str, Any] | None = None
    compared: Mapping[str, Float[ndarray, "N T s K"]] = dataclasses.field(
        default_factory=dict
    )
    lower_codes: Mapping[str, Int[ndarray, "N T"]] = dataclasses.field(
        default_factory=dict
    )
    lower_vectors: Float[ndarray, "M D"] | None = None

    def features(self, modality: str, kind: str) -> Float[ndarray, "N T *_"]:
        """Returns one vector a tick.

        Args:
          modality: whose.
          kind: "shared", the variates; "codes", the code vectors; "semantic", the
            continuous features; or "compared", and the continuous ones without such.
        """
        if kind == "shared":
            return self.variates[modality]
        if kind == "compared" and modality in self.compared:
            return self.compared[modality]
        if kind in ("semantic", "compared"):
            return self.semantic[modality]
        assert kind == "codes", kind
        assert self.vectors is not None, "a system without codes has no code vectors"
        chosen = self.vectors[self.codes[modality]]
        if self.lower_vectors is None:
            return chosen
        lower = self.lower_vectors[self.lower_codes[modality]]
        return np.concatenate([chosen, lower], axis=-1)

    def compared_codes(self) -> tuple[Mapping[str, Int[ndarray, "N _"]], int]:
        """Returns the codes at which modalities are compared, and how many there are.

        Those of the shared level, and of the ticks where there is none.
        """
        if self.shared_vectors is not None:
            return self.shared_codes, len(self.shared_vectors)
        return self.codes, 0 if self.vectors is None else len(self.vectors)

    def tick_codes(self) -> Mapping[str, Int[ndarray, "N T"]]:
        """Returns the same codes, one a tick: a segment's is that of all its ticks."""
        found, _ = self.compared_codes()
        return {
            m: np.repeat(codes, self.codes[m].shape[1] // codes.shape[1], axis=1)
            for m, codes in found.items()
        }


class FrozenEncoder:
    """The encoders of some views of a run, compiled once for any parameters."""

    def __init__(self, config: ConfigDict, views: Sequence[str], mesh: Mesh) -> None:
        """Builds the encoders.

        Args:
          config: of the run; gives the architecture.
          views: which to encode: modalities, or `FUSED`.
          mesh: devices that share each batch.

        Raises:
          ValueError: the run's system has no such view, or several are asked for of a
            system that does not encode each from its own input alone.
        """
        known = set(make_system(config).views)
        unknown = sorted(set(views) - known)
        if unknown:
            raise ValueError(
                "source and target must be views of the run, "
                f"{', '.join(sorted(known))}; got {', '.join(unknown)};"
                " correct --config.source and --config.target"
            )
        self.views = tuple(dict.fromkeys(views))
        self.system = make_system(config, inputs_of(views, config.model.modalities))
        if len(self.views) > 1 and not self.system.encodes_alone:
            raise ValueError(
                "modalities are compared where each is encoded from its own input "
                f"alone; got a run of {config.model.name}, a control that mixes them; "
                "compare it with scripts/fusion_control.py"
            )
        self._config = config
        self._mesh = mesh
        # Whatever the number of devices, each takes the same number of rows.
        self._batch_size = -(-config.batch_size // mesh.size) * mesh.size
        self._encode = jax.jit(
            functools.partial(_encode, self.system, self.views),
            static_argnames="context",
            out_shardings=sharding.batch_sharded(mesh),
        )

    def __call__(
        self,
        frozen: EncoderState,
        store: RecordingStore,
        windows: WindowIndex,
        *,
        keep_semantic: bool,
        context: bool = True,
    ) -> Encodings:
        """Encodes windows, each once.

        Args:
          frozen: what encodes.
          store: the recordings.
          windows: which windows of them.
          keep_semantic: whether to keep the continuous features too.
          context: False for ticks that do not see each other, as `System.semantic`.

        Raises:
          ValueError: the recordings do not fit the encoders.
        """
        self._check_fits(frozen, store, windows)
        return self._gathered(
            frozen, self._batches(store, windows), keep_semantic, context=context
        )

    def of_arrays(
        self, frozen: EncoderState, streams: Mapping[str, Shaped[ndarray, "N T R *_"]]
    ) -> Encodings:
        """Encodes windows that are arrays already, with the continuous features.

        Args:
          frozen: what encodes.
          streams: samples by modality.
        """
        return self._gathered(frozen, self._of_arrays(streams), True)

    def _gathered(
        self,
        frozen: EncoderState,
        batches: Iterable[tuple[Mapping[str, Array], Bool[ndarray, " B"]]],
        keep_semantic: bool,
        *,
        context: bool = True,
    ) -> Encodings:
        """Encodes batches and returns their rows on the host."""
        found: dict[str, dict[str, list[ndarray]]] = {
            part: {m: [] for m in self.views}
            for part in (
                *("codes", "lower_codes", "semantic", "compared"),
                *("variates", "shared_codes"),
            )
        }
        for placed, mask in batches:
            encoded = jax.device_get(self._encode(frozen, placed, context=context))
            for name, encoding in encoded.items():
                if encoding.codes is not None:
                    found["codes"][name].append(encoding.codes[mask])
                if encoding.lower_codes is not None:
                    found["lower_codes"][name].append(encoding.lower_codes[mask])
                if keep_semantic:
                    found["semantic"][name].append(encoding.features[mask])
                if keep_semantic and encoding.compared is not None:
                    found["compared"][name].append(encoding.compared[mask])
                if encoding.shared is not None:
                    found["variates"][name].append(encoding.shared.variates[mask])
                    found["shared_codes"][name].append(encoding.shared.codes[mask])
        joined = {
            part: {m: np.concatenate(rows) for m, rows in by_modality.items() if rows}
            for part, by_modality in found.items()
        }
        vectors = self.system.code_vectors(frozen.model_state)
        shared = self.system.shared_vectors(frozen.model_state)
        lower = self.system.lower_vectors(frozen.model_state)
        return Encodings(
            **joined,
            vectors=None if vectors is None else np.asarray(vectors),
            lower_vectors=None if lower is None else np.asarray(lower),
            shared_vectors=None if shared is None else np.asarray(shared),
            shared_settings=None
            if shared is None
            else self._config.codebook.shared.to_dict(),
        )

    def _batches(
        self, store: RecordingStore, windows: WindowIndex
    ) -> Iterator[tuple[Mapping[str, Array], Bool[ndarray, " B"]]]:
        """Yields the streams of windows on the devices, and which rows are windows."""
        for batch in pipeline.evaluation_batches(
            store, windows, batch_size=self._batch_size
        ):
            streams = {m: batch["streams"][m] for m in self.system.modalities}
            yield sharding.place_batch(streams, self._mesh), batch["mask"]

    def _of_arrays(
        self, streams: Mapping[str, Shaped[ndarray, "N T R *_"]]
    ) -> Iterator[tuple[Mapping[str, Array], Bool[ndarray, " B"]]]:
        """Yields arrays as `_batches` does; the last batch repeats its last row."""
        number = len(next(iter(streams.values())))
        for first in range(0, number, self._batch_size):
            rows = np.arange(first, first + self._batch_size)
            placed = {m: x[np.minimum(rows, number - 1)] for m, x in streams.items()}
            yield sharding.place_batch(placed, self._mesh), rows < number

    def random(
        self,
        statistics: Mapping[str, Mapping[str, Array]],
        store: RecordingStore,
        windows: WindowIndex,
        *,
        seed: int,
    ) -> EncoderState:
        """Returns encoders that were not pre-trained, with a model state of their own.

        Codes are placed on what these encoders make of up to 512 of the windows,
        spread evenly, as at the start of a run. On one device, so that nothing depends
        on their number.
        """
        alone = self._alone
        statistics = sharding.on_one_device(statistics)
        some = windows.spread(_STATE_WINDOWS)
        model_key, state_key = jax.random.split(jax.random.key(seed))
        few = windows.spread(_SCALE_WINDOWS)
        first = pipeline.assemble(store, few, np.arange(len(few)))
        streams = {m: first["streams"][m] for m in self.system.modalities}
        params = self.fresh_params(model_key, streams, statistics)
        seen = []
        for placed, mask in alone._batches(store, some):
            found = jax.device_get(alone._semantic(params, statistics, placed))
            seen.append({m: z[mask] for m, z in found.items()})
        # In this order, which decides where codes are placed.
        semantic = {
            m: jnp.concatenate([z[m] for z in seen])
            for m in self.system.views
            if m in seen[0]
        }
        model_state = self.system.init_model_state(state_key, semantic)
        if self.system.has_shared_level:
            rows = {
                m: np.asarray(x).reshape(-1, x.shape[-1])
                for m, x in self.system.shared_features(semantic).items()
            }
            model_state = self.system.fit_shared(model_state, rows)
        return EncoderState(params, model_state, statistics)

    def fresh_params(self, key: Array, streams: Any, statistics: Any) -> Any:
        """Returns parameters as a run starts with, by what it makes of some windows."""
        return self._init(key, streams, statistics)

    @functools.cached_property
    def _alone(self) -> FrozenEncoder:
        """The same encoders on one device."""
        return FrozenEncoder(self._config, self.views, sharding.one_device_mesh())

    @functools.cached_property
    def _semantic(self) -> Any:
        def semantic(params: Any, statistics: Any, streams: Any) -> Any:
            values = preprocess.normalise(streams, statistics)
            return self.system.apply(
                {"params": params}, values, train=False, method="semantic"
            )

        return jax.jit(semantic, out_shardings=sharding.batch_sharded(self._mesh))

    @functools.cached_property
    def _init(self) -> Any:
        def init(key: Array, streams: Any, statistics: Any) -> Any:
            return encoder_parameters(
                self.system,
                key,
                preprocess.normalise(streams, statistics),
                standardise=self._config.standardise_projections,
            )

        return jax.jit(init, compiler_options=RUNS_ONCE)

    def _check_fits(
        self, frozen: EncoderState, store: RecordingStore, windows: WindowIndex
    ) -> None:
        """Refuses recordings of another kind than the encoders were trained on."""
        shapes = {}
        for name in self.system.modalities:
            info = store.streams[name]
            dtype = jnp.float32 if name in frozen.statistics else info.dtype
            slots = windows.ticks.samples[name].shape[1]
            shape = (1, windows.window_ticks, slots, *info.value_shape)
            shapes[name] = jax.ShapeDtypeStruct(shape, dtype)
            known = frozen.statistics.get(name, {"mean": np.zeros(shape[-1])})["mean"]
            if known.shape != (info.value_shape[-1] if info.value_shape else 1,):
                raise ValueError(
                    f"recordings must have the channels of {name!r} that the run was "
                    f"trained on, {known.size}; got samples of {info.value_shape} in "
                    f"{store.directory}; give recordings of the same kind"
                )
        init = functools.partial(self.system.init, train=False, method="semantic")
        expected = jax.eval_shape(init, jax.random.key(0), shapes)["params"]
        for part, params in expected.items():
            if _shapes(params) != _shapes(frozen.params[part]):
                raise ValueError(
                    "recordings must have the frame size that the run was trained on; "
                    f"got samples of {[s.shape[3:] for s in shapes.values()]} for "
                    f"{list(shapes)} in {store.directory}, which do not fit {part}; "
                    "give recordings of the same kind"
                )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def _encode(
    system: Any,
    views: tuple[str, ...],
    frozen: EncoderState,
    streams: Mapping[str, Array],
    *,
    context: bool,
) -> dict[str, Encoding]:
    values = preprocess.normalise(streams, frozen.statistics)
    encoded: dict[str, Encoding] = system.apply(
        {"params": frozen.params},
        values,
        frozen.model_state,
        views,
        context=context,
        method="encode",
    )
    return encoded


@dataclasses.dataclass(frozen=True)
class RunEncoder:
    """The frozen encoders of a run with what its checkpoint holds.

    Attributes:
      encoder: the compiled encoders.
      state: parameters, model state and input statistics.
    """

    encoder: FrozenEncoder
    state: EncoderState

    def __call__(self, store: RecordingStore, windows: WindowIndex) -> Encodings:
        """Encodes windows, each once: continuous features, and codes if there are any.

        Raises:
          ValueError: the recordings do not fit the encoders.
        """
        return self.encoder(self.state, store, windows, keep_semantic=True)

    def of_arrays(
        self, streams: Mapping[str, Shaped[ndarray, "N T R *_"]]
    ) -> Encodings:
        """Encodes windows that are arrays already: samples by modality."""
        return self.encoder.of_arrays(self.state, streams)
