"""Frames of a simulated furnace shell, and the masks of what is abnormal on them.

A fixed camera looks at the iron shell, which fills the frame. Flame above the mouth
lights it from the top, spray nozzles wrap it in mist. In the semi-molten state an
irregular bright spot grows on it. Lengths are in pixels, light in grey levels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fmalign_jax.data.simulator import shell as shells
from fmalign_jax.data.simulator.operation import Operation
from fmalign_jax.data.simulator.processes import generator, ornstein_uhlenbeck, white
from fmalign_jax.data.simulator.shell import SIZE_PX, Shell, Spot

MASK_LEVEL = 0.45
"""A pixel is marked where a lobe of the spot exceeds this share of its peak."""

_CHUNK = 128
_PALETTE = np.array(
    [
        (53, 60, 95),  # blue
        (113, 86, 88),  # violet
        (177, 140, 12),  # gold
        (163, 146, 70),  # olive
        (151, 97, 76),  # orange
        (165, 162, 157),  # grey
        (226, 223, 200),  # white-out
    ],
    float,
)
_WHITE_OUT_SHARE = 0.05
"""The other colours are equally frequent; how frequent this one is, is not known."""
_ROWS = np.arange(SIZE_PX, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Weather:
    """Everything about light and mist that changes from frame to frame.

    Attributes:
      colour: mean colour of the frame, grey levels.
      flame: brightness of the flame, median 1.
      exposure: of the camera, median 1.
      veil: opacity of the thin mist; 0 without.
      puff: opacity of dense puffs; 0 between them.
      plume: opacity of the edge plume.
      drift_px: how far the mist has risen.
      flicker: of the spot, median 1.
    """

    colour: Float[np.ndarray, "N 3"]
    flame: Float[np.ndarray, "N"]
    exposure: Float[np.ndarray, "N"]
    veil: Float[np.ndarray, "N"]
    puff: Float[np.ndarray, "N"]
    plume: Float[np.ndarray, "N"]
    drift_px: Float[np.ndarray, "N"]
    flicker: Float[np.ndarray, "N"]


def render(
    operation: Operation, time_s: Float[np.ndarray, "N"]
) -> tuple[UInt8[np.ndarray, "N 64 64 3"], UInt8[np.ndarray, "N 64 64"]]:
    """Draws the frames at the given times, which are evenly spaced.

    Returns:
      frames uint8 [N, 64, 64, 3]; masks uint8 [N, 64, 64], 1 where abnormal.
    """
    shell = shells.draw_shell(operation.profile, operation.furnace)
    spots = shells.draw_spots(operation, shell)
    weather = draw_weather(operation, shell, time_s)
    rng = generator(operation.seed, "camera")
    frames = np.empty((len(time_s), SIZE_PX, SIZE_PX, 3), np.uint8)
    masks = np.empty((len(time_s), SIZE_PX, SIZE_PX), np.uint8)
    for start in range(0, len(time_s), _CHUNK):
        part = slice(start, start + _CHUNK)
        now = Weather(
            *(
                getattr(weather, field.name)[part].astype(np.float32)
                for field in dataclasses.fields(Weather)
            )
        )
        scene = _lit_shell(shell, now)
        masks[part] = _add_spots(scene, spots, time_s[part], now.flicker)
        opacity = _mist_opacity(shell, now)
        if not operation.profile.label_under_mist:
            masks[part] &= opacity < 0.6
        _cover(scene, opacity, now)
        frames[part] = _photograph(scene, rng)
    return frames, masks


def draw_weather(
    operation: Operation, shell: Shell, time_s: Float[np.ndarray, "N"]
) -> Weather:
    """Draws light and mist at evenly spaced times."""
    profile, steps = operation.profile, len(time_s)
    step_s = float(time_s[1] - time_s[0]) if steps > 1 else 1.0

    def process(name: str, tau_s: float) -> Float[np.ndarray, "N"]:
        innovations = white(generator(operation.seed, name), steps, 1)
        return ornstein_uhlenbeck(innovations, tau_s=tau_s, step_s=step_s)[:, 0]

    flame = 0.25 * process("flame", 8.0) + 0.06 * process("flame flicker", 0.2)
    exposure = 0.12 * process("exposure", 30.0)
    veil = 1 / (1 + np.exp(1.5 - 0.9 * process("veil", 12.0)))
    plume = 1 / (1 + np.exp(-1.5 * process("plume", 20.0)))
    speed = generator(operation.seed, "mist").uniform(3, 9)
    return Weather(
        colour=_palette_colours(operation, time_s),
        flame=np.exp(flame * profile.light_changes),
        exposure=np.exp(exposure * profile.light_changes),
        veil=veil * profile.mist,
        puff=_puff_opacity(operation, time_s),
        plume=plume * shell.plume_strength,
        drift_px=speed * time_s,
        flicker=np.exp(0.08 * process("flicker", 0.4)),
    )


def _palette_colours(
    operation: Operation, time_s: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N 3"]:
    """Each colour is held for 15-90 s, with a cross-fade of 2 s to the next."""
    profile = operation.profile
    rng = generator(operation.seed, "palette")
    holds = int(time_s[-1] / 15.0) + 2
    position = rng.integers(0, len(_PALETTE) - 1, holds)
    position[rng.uniform(size=holds) < _WHITE_OUT_SHARE * profile.white_out] = -1
    colours = _PALETTE[position]
    change_s = np.cumsum(rng.uniform(15, 90, holds))[:-1]
    if not profile.light_changes:
        return np.repeat(colours[:1], len(time_s), axis=0)
    knots = np.stack([change_s - 1, change_s + 1], axis=1).reshape(-1)
    levels = np.repeat(colours, 2, axis=0)[1:-1]
    return np.stack([np.interp(time_s, knots, level) for level in levels.T], axis=1)


def _puff_opacity(
    operation: Operation, time_s: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Dense puffs, swelling within 3 s and thinning out within 6 s."""
    spans = operation.events["puffs"]
    rng = generator(operation.seed, "puff opacity")
    opacity = np.zeros(len(time_s))
    for begin, end in spans:
        swell = np.clip((time_s - begin) / 3.0, 0, 1)
        thin = np.clip((end - time_s) / 6.0, 0, 1)
        opacity = np.maximum(opacity, rng.uniform(0.65, 0.97) * swell * thin)
    return opacity


def _lit_shell(shell: Shell, now: Weather) -> Float[np.ndarray, "n 64 64 3"]:
    top = shell.top_light * np.exp(-_ROWS / shell.top_depth_px)
    light = (0.70 + now.flame[:, None] * top) * now.exposure[:, None]
    lit = light[:, :, None] * now.colour[:, None, :]
    scene = lit[:, :, None, :] * shell.albedo
    # A dot is white paint or a rivet: it shines by the light that falls on it.
    scene += (lit.mean(axis=2)[:, :, None] * shell.dots)[..., None]
    return scene.astype(np.float32)


def _add_spots(
    scene: Float[np.ndarray, "n 64 64 3"],
    spots: list[Spot],
    time_s: Float[np.ndarray, "n"],
    flicker: Float[np.ndarray, "n"],
) -> Bool[np.ndarray, "n 64 64"]:
    """Adds the light of all spots to the scene, in place; returns their mask."""
    mask = np.zeros(scene.shape[:3], bool)
    for spot in spots:
        shown = np.flatnonzero((time_s >= spot.begin_s) & (time_s < spot.gone_s))
        if not len(shown):
            continue
        now = time_s[shown]
        core, halo = spot.core_and_halo(now)
        brightness = 255 * flicker[shown] * spot.brightness(now)
        whiteness = spot.whiteness(now)[:, None]
        core_colour = spot.first_colour + whiteness * (
            spot.core_colour - spot.first_colour
        )
        light = brightness[:, None] * core_colour
        scene[shown] += core[..., None] * light[:, None, None, :]
        halo_light = 0.22 * brightness[:, None] * spot.halo_colour
        scene[shown] += halo[..., None] * halo_light[:, None, None, :]
        if spot.labelled:
            mask[shown[now < spot.end_s]] |= core[now < spot.end_s] > MASK_LEVEL
    return mask


def _mist_opacity(shell: Shell, now: Weather) -> Float[np.ndarray, "n 64 64"]:
    period = len(shell.mist)
    row = (_ROWS.astype(int) + now.drift_px.astype(int)[:, None]) % period
    texture = shell.mist[row]
    clear = 1 - np.clip(now.veil[:, None, None] * 2 * texture, 0, 0.95)
    clear *= 1 - now.puff[:, None, None] * (0.75 + 0.25 * texture)
    clear *= 1 - now.plume[:, None, None] * shell.plume * np.minimum(2 * texture, 1)
    return 1 - clear


def _cover(
    scene: Float[np.ndarray, "n 64 64 3"],
    opacity: Float[np.ndarray, "n 64 64"],
    now: Weather,
) -> None:
    """Lays the mist, coloured by the flame's light, over the scene, in place."""
    glare = np.sqrt(now.flame) * now.exposure
    colour = (0.75 * now.colour + 50.0) * glare[:, None]
    np.minimum(scene, 255, out=scene)
    scene += opacity[..., None] * (colour[:, None, None, :] - scene)


def _photograph(
    scene: Float[np.ndarray, "n 64 64 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Adds 1.2 % camera noise and the codec's 8 x 8 blocks, and rounds."""
    scene += 3.0 * rng.standard_normal(scene.shape, np.float32)
    blocks = scene.reshape(len(scene), 8, 8, 8, 8, 3)
    mean = blocks.mean(axis=(2, 4), keepdims=True)
    blocks += np.round(mean / 4) * 4 - mean
    return np.clip(np.round(scene), 0, 255).astype(np.uint8)
