"""Frozen encoders and codebook, applied to windows of recordings.

Nothing acts that acts in training only: no dropout, no augmentation, no update of the
codebook. Any number of devices may encode; each window is encoded once, and what comes
back is on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.data import pipeline
from fmalign_jax.data.store import RecordingStore
from fmalign_jax.data.windows.index import WindowIndex
from fmalign_jax.models import quantizer
from fmalign_jax.models.cmg import Cmg
from fmalign_jax.training import preprocess, sharding
from fmalign_jax.training.state import standardise_projections

_CODEBOOK_WINDOWS = 512


@no_type_check  # as a pytree it also carries tracers and shapes
@flax.struct.dataclass
class EncoderState:
    """What encodes: parameters, codes and input statistics.

    Attributes:
      params: of the encoders.
      vectors: [M, D], the codes.
      statistics: mean and std per channel, by modality.
    """

    params: Any
    vectors: Float[Array, "M D"]
    statistics: Mapping[str, Mapping[str, Array]]


@dataclasses.dataclass(frozen=True)
class Encodings:
    """Windows as the encoders see them, on the host.

    Attributes:
      codes: by modality [N, T].
      vectors: [M, D], the codes' vectors.
      semantic: by modality [N, T, D], continuous; empty unless asked for.
    """

    codes: Mapping[str, Int[ndarray, "N T"]]
    vectors: Float[ndarray, "M D"]
    semantic: Mapping[str, Float[ndarray, "N T D"]]

    def features(self, modality: str) -> Float[ndarray, "N T D"]:
        """Returns the continuous features if there are any, else the code vectors."""
        if self.semantic:
            return self.semantic[modality]
        return self.vectors[self.codes[modality]]


class FrozenEncoder:
    """The encoders of some modalities of a run, compiled once for any parameters."""

    def __init__(
        self, config: ConfigDict, modalities: Sequence[str], mesh: Mesh
    ) -> None:
        """Builds the encoders.

        Args:
          config: of the run; gives the architecture.
          modalities: which to build.
          mesh: devices that share each batch.

        Raises:
          ValueError: the run knows no such modality.
        """
        entries = config.model.to_dict()
        unknown = sorted(set(modalities) - set(entries["modalities"]))
        if unknown:
            raise ValueError(
                "source and target must be modalities of the run, "
                f"{', '.join(sorted(entries['modalities']))}; got {', '.join(unknown)};"
                " correct --config.source and --config.target"
            )
        entries["modalities"] = {m: entries["modalities"][m] for m in modalities}
        self.model = Cmg(**entries, dtype=jnp.dtype(config.compute_dtype))
        self._config = config
        self._mesh = mesh
        # Whatever the number of devices, each takes the same number of rows.
        self._batch_size = -(-config.batch_size // mesh.size) * mesh.size
        self._encode = jax.jit(
            functools.partial(_encode, self.model),
            out_shardings=sharding.batch_sharded(mesh),
        )

    def __call__(
        self,
        frozen: EncoderState,
        store: RecordingStore,
        windows: WindowIndex,
        *,
        keep_semantic: bool,
    ) -> Encodings:
        """Encodes windows, each once.

        Args:
          frozen: parameters, codes and statistics.
          store: the recordings.
          windows: which windows of them.
          keep_semantic: whether to keep the continuous features too.

        Raises:
          ValueError: the recordings do not fit the encoders.
        """
        self._check_fits(frozen, store, windows)
        codes: dict[str, list[ndarray]] = {m: [] for m in self.model.modalities}
        semantic: dict[str, list[ndarray]] = {m: [] for m in self.model.modalities}
        for batch in pipeline.evaluation_batches(
            store, windows, batch_size=self._batch_size
        ):
            streams = {m: batch["streams"][m] for m in self.model.modalities}
            placed = sharding.place_batch(streams, self._mesh)
            found = jax.device_get(self._encode(frozen, placed))
            for name, (z, code) in found.items():
                codes[name].append(code[batch["mask"]])
                if keep_semantic:
                    semantic[name].append(z[batch["mask"]])
        return Encodings(
            codes={m: np.concatenate(parts) for m, parts in codes.items()},
            vectors=np.asarray(frozen.vectors),
            semantic={m: np.concatenate(parts) for m, parts in semantic.items()}
            if keep_semantic
            else {},
        )

    def random(
        self,
        statistics: Mapping[str, Mapping[str, Array]],
        store: RecordingStore,
        windows: WindowIndex,
        *,
        seed: int,
    ) -> EncoderState:
        """Returns encoders that were not pre-trained, with a codebook of their own.

        The codes are placed on what these encoders make of up to 512 of the windows,
        spread evenly, as at the start of a run. On one device, so that nothing depends
        on their number.
        """
        alone = FrozenEncoder(
            self._config, list(self.model.modalities), sharding.one_device_mesh()
        )
        statistics = sharding.on_one_device(statistics)
        rows = np.unique(
            np.linspace(0, len(windows) - 1, _CODEBOOK_WINDOWS).astype(np.int64)
        )
        some = dataclasses.replace(windows, start=windows.start[rows])
        model_key, code_key = jax.random.split(jax.random.key(seed))
        first = pipeline.assemble(store, some, np.arange(min(len(some), 64)))
        streams = {m: first["streams"][m] for m in self.model.modalities}
        params = self.fresh_params(model_key, streams, statistics)
        settings = self._config.codebook
        blank = jnp.zeros((settings.codes, self._config.model.width))
        seen = alone(
            EncoderState(params, blank, statistics), store, some, keep_semantic=True
        )
        features = [z.reshape(-1, z.shape[-1]) for z in seen.semantic.values()]
        codebook = quantizer.initialise(
            code_key,
            jnp.concatenate(features),
            settings.codes,
            modalities=list(self.model.modalities),
            method=settings.initialisation,
        )
        vectors = quantizer.embeddings(codebook, epsilon=self.model.laplace_epsilon)
        return EncoderState(params, vectors, statistics)

    def fresh_params(self, key: Array, streams: Any, statistics: Any) -> Any:
        """Returns parameters as a run starts with, by what it makes of some windows."""
        standardise = self._config.standardise_projections

        # It runs once: optimising it costs more than it takes.
        @functools.partial(
            jax.jit, compiler_options={"xla_backend_optimization_level": 0}
        )
        def init(key: Array, streams: Any, statistics: Any) -> Any:
            values = preprocess.normalise(streams, statistics)
            variables = self.model.init(key, values, train=False, method=Cmg.encode)
            if standardise:
                variables = standardise_projections(self.model, variables, values)
            return variables["params"]

        return init(key, streams, statistics)

    def _check_fits(
        self, frozen: EncoderState, store: RecordingStore, windows: WindowIndex
    ) -> None:
        """Refuses recordings of another kind than the encoders were trained on."""
        shapes = {}
        for name in self.model.modalities:
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
        init = functools.partial(self.model.init, train=False, method=Cmg.encode)
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
    model: Cmg, frozen: EncoderState, streams: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    """Returns by modality semantic features [B, T, D] and codes [B, T]."""
    values = preprocess.normalise(streams, frozen.statistics)
    semantic: Any = model.apply(
        {"params": frozen.params}, values, train=False, method=Cmg.encode
    )
    return {m: (z, quantizer.assign(z, frozen.vectors)) for m, z in semantic.items()}
