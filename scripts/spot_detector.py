"""A small convolutional network that looks for the semi-molten state in the video.

Only a yardstick for check_simulator.py: how well can the state be seen at all?
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.metrics import balanced_accuracy_score

from fmalign_jax.data.simulator.furnaces import SimulatedFurnace

CLIP_FRAMES = 7
"""7 s at one frame a second."""
STRIDE = 3
BATCH = 64


class SpotDetector(nn.Module):
    """Five convolutions to a map of 8 x 8; the strongest response decides."""

    @nn.compact
    def __call__(self, clips: Float[Array, "B 64 64 9"]) -> Float[Array, "B 8 8"]:
        """Logit of a semi-molten spot in each 8 x 8 pixels."""
        x = clips
        for width in (12, 24, 32):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        for width in (48, 48):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
        return nn.Dense(1)(x)[..., 0]


def video_accuracy(recordings: list[SimulatedFurnace], *, epochs: int) -> float:
    """Balanced accuracy on the last 30 % of the furnaces, trained on the others."""
    known = round(0.7 * len(recordings))
    clips = [clips_and_masks(recording) for recording in recordings]
    params = train(*_joined(clips[:known]), epochs=epochs)
    return accuracy(params, *_joined(clips[known:]))


def _joined(
    parts: list[tuple[UInt8[np.ndarray, "_ 64 64 9"], Bool[np.ndarray, "_ 8 8"]]],
) -> tuple[UInt8[np.ndarray, "n 64 64 9"], Bool[np.ndarray, "n 8 8"]]:
    clips, masks = zip(*parts, strict=True)
    return np.concatenate(clips), np.concatenate(masks)


def accuracy(
    params: optax.Params,
    clips: UInt8[np.ndarray, "n 64 64 9"],
    masks: Bool[np.ndarray, "n 8 8"],
) -> float:
    """Balanced accuracy of the state, one label a clip."""
    label = masks.any(axis=(1, 2))
    return float(balanced_accuracy_score(label, predict(params, clips)))


def clips_and_masks(
    recording: SimulatedFurnace,
) -> tuple[UInt8[np.ndarray, "n 64 64 9"], Bool[np.ndarray, "n 8 8"]]:
    """Last, median and brightest of every seven frames; the last one's mask."""
    views = sliding_window_view(recording.frames, CLIP_FRAMES, axis=0)[::STRIDE]
    summary = [views[..., -1], np.median(views, axis=-1), views.max(axis=-1)]
    masks = recording.masks[CLIP_FRAMES - 1 :: STRIDE].reshape(-1, 8, 8, 8, 8)
    return np.concatenate(summary, axis=-1).astype(np.uint8), masks.any(axis=(2, 4))


def _contrast(clips: UInt8[Array, "B 64 64 9"]) -> Float[Array, "B 64 64 9"]:
    """Logarithmic contrast against the clip's own mean: no use of the palette."""
    brightness = jnp.log(clips.astype(jnp.float32) + 16.0)
    return 3.0 * (brightness - brightness.mean(axis=(1, 2), keepdims=True))


def train(
    clips: UInt8[np.ndarray, "n 64 64 9"],
    masks: Bool[np.ndarray, "n 8 8"],
    *,
    epochs: int,
) -> optax.Params:
    """Adam with a cosine schedule, on the map and on its strongest response.

    Clips are mirrored and shifted at random, so that no place gives the state away.
    """
    model = SpotDetector()
    params = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 9)))
    optimizer = optax.adam(
        optax.cosine_decay_schedule(2e-3, epochs * (len(masks) // BATCH))
    )

    @jax.jit
    def step(
        params: optax.Params,
        state: optax.OptState,
        x: UInt8[Array, "B 64 64 9"],
        y: Bool[Array, "B 8 8"],
    ) -> tuple[optax.Params, optax.OptState]:
        def loss(params: optax.Params) -> Float[Array, ""]:
            logits = model.apply(params, _contrast(x))
            local = optax.sigmoid_binary_cross_entropy(logits, y).sum(axis=(1, 2))
            whole = optax.sigmoid_binary_cross_entropy(
                logits.max(axis=(1, 2)), y.any(axis=(1, 2))
            )
            return (0.05 * local + whole).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(0)
    state = optimizer.init(params)
    for _ in range(epochs):
        order: Int[np.ndarray, "n"] = rng.permutation(len(masks))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            rows, mirror = order[start : start + BATCH], rng.choice((-1, 1))
            shift = rng.integers(-2, 3, 2)
            x = np.roll(clips[rows, :, ::mirror], 8 * shift, (1, 2))
            y = np.roll(masks[rows, :, ::mirror], shift, (1, 2))
            params, state = step(params, state, x, y)
    return params


def predict(
    params: optax.Params, clips: UInt8[np.ndarray, "n 64 64 9"]
) -> Bool[np.ndarray, "n"]:
    """Whether each clip shows the semi-molten state."""

    @jax.jit
    def strongest(x: UInt8[Array, "B 64 64 9"]) -> Float[Array, "B"]:
        return SpotDetector().apply(params, _contrast(x)).max(axis=(1, 2))

    parts = [strongest(clips[i : i + 256]) for i in range(0, len(clips), 256)]
    return np.concatenate([np.asarray(part) for part in parts]) > 0
