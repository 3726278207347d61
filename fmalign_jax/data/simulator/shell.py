"""The iron shell of one furnace, and the bright spots that appear on it.

Lengths are in pixels of a 64 x 64 frame; reflectivity is relative to its mean.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import ndimage, special

from fmalign_jax.data.simulator.operation import Operation
from fmalign_jax.data.simulator.processes import generator
from fmalign_jax.data.simulator.profiles import FurnaceProfile

SIZE_PX = 64
MIST_PERIOD_PX = 509

_FADE_S = 8.0 / 3
"""A spot is gone (to 5 %) within 8 s: labels end when nothing is seen any more."""
_BRIGHTEN_S = 15.0
_WHITEN_S = 30.0
_GRID = np.arange(SIZE_PX, dtype=np.float32)
_RED = np.array((1.0, 0.25, 0.15))
_PINK_WHITE = np.array((1.0, 0.85, 0.85))
_HALO_COLOURS = np.array([(1.0, 0.55, 0.1), (0.75, 1.0, 0.2)])
_CORNERS_PX = np.array([(5, 5), (5, 58), (58, 5), (58, 58)])


@dataclasses.dataclass(frozen=True)
class Shell:
    """How one furnace looks to its camera.

    Attributes:
      albedo: reflectivity, with a coloured object in one corner.
      dots: reflectivity of static white dots, on top of the albedo.
      top_light: strength of the flame's light at the upper edge.
      top_depth_px: depth to which it reaches.
      plume: shape of the plume along one edge, 0 to 1.
      plume_strength: 0 to 0.6.
      mist: texture of the rising mist, mean 0.5, periodic in its rows.
      sites_px: row and column of the one to three places where spots appear.
    """

    albedo: Float[np.ndarray, "64 64 3"]
    dots: Float[np.ndarray, "64 64"]
    top_light: float
    top_depth_px: float
    plume: Float[np.ndarray, "64 64"]
    plume_strength: float
    mist: Float[np.ndarray, "rows 64"]
    sites_px: Float[np.ndarray, "sites 2"]


def draw_shell(profile: FurnaceProfile, furnace: int) -> Shell:
    """Draws the look of a furnace, by its number."""
    rng = generator(furnace, "shell")
    to_edge = _GRID if rng.uniform() < 0.5 else _GRID[::-1]
    strength = rng.uniform(0, 0.6)
    return Shell(
        albedo=_albedo(generator(furnace, "albedo")),
        dots=_dots(generator(furnace, "dots")) * profile.static_dots,
        top_light=rng.uniform(0.5, 1.2),
        top_depth_px=rng.uniform(12, 30),
        plume=np.tile(np.exp(-to_edge / 9), (SIZE_PX, 1)),
        plume_strength=strength * profile.plume,
        mist=_mist(generator(furnace, "mist")),
        sites_px=_sites(generator(furnace, "sites")),
    )


def _sites(rng: np.random.Generator) -> Float[np.ndarray, "sites 2"]:
    count = int(rng.integers(1, 4))
    return rng.uniform((0.45, 0.1), (0.90, 0.9), (count, 2)) * SIZE_PX


def _albedo(rng: np.random.Generator) -> Float[np.ndarray, "64 64 3"]:
    """Streaks, patches, peeled ellipses, the shading of a cylinder, a corner object."""
    streaks = ndimage.gaussian_filter1d(rng.standard_normal(SIZE_PX), 1.0)
    patches = ndimage.gaussian_filter(rng.standard_normal((SIZE_PX, SIZE_PX)), 4.0)
    relief = 1 + 0.06 * streaks / streaks.std() + 0.05 * patches / patches.std()
    for _ in range(rng.integers(0, 4)):
        centre, radius = rng.uniform(8, 56, 2), rng.uniform(2, 7, 2)
        inside = special.expit(6 * (1 - _distance(centre, radius)))
        relief *= 1 + rng.uniform(-0.25, 0.1) * inside
    across = (_GRID - rng.uniform(24, 40)) / 40
    relief *= np.sqrt(np.maximum(1 - across**2, 0.2))
    albedo = np.repeat((relief / relief.mean())[..., None], 3, axis=2)
    if rng.uniform() < 0.5:
        corner = _CORNERS_PX[rng.integers(4)] + rng.uniform(-2, 2, 2)
        inside = _distance(corner, rng.uniform(3, 6, 2)) < 1
        albedo[inside] *= np.array((0.5, 0.8, 1.6))
    return albedo.astype(np.float32)


def _dots(rng: np.random.Generator) -> Float[np.ndarray, "64 64"]:
    dots = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    for _ in range(rng.integers(0, 3)):
        distance = _distance(rng.uniform(6, 58, 2), rng.uniform(0.5, 0.9, 2))
        dots += rng.uniform(0.3, 0.7) * np.exp(-0.5 * distance**2)
    return dots


def _mist(rng: np.random.Generator) -> Float[np.ndarray, "rows 64"]:
    noise = rng.standard_normal((MIST_PERIOD_PX, SIZE_PX))
    fine = ndimage.gaussian_filter(noise, 3.0, mode=("wrap", "nearest"))
    coarse = ndimage.gaussian_filter(noise[::-1], 8.0, mode=("wrap", "nearest"))
    texture = 0.5 + 0.16 * (fine / fine.std() + coarse / coarse.std())
    return np.clip(texture, 0, 1).astype(np.float32)


def _distance(
    centre: Float[np.ndarray, "2"], radius: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "64 64"]:
    """Distance of each pixel from a centre, in units of the ellipse's radii."""
    row = (_GRID - centre[0])[:, None] / radius[0]
    column = (_GRID - centre[1]) / radius[1]
    return np.hypot(row, column).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Spot:
    """One bright spot: a semi-molten region, or a spark that only looks like one.

    Attributes:
      begin_s, end_s: when it glows up, and when it starts to fade.
      labelled: whether it belongs in the mask.
      centre_px: row and column of each lobe.
      final_radius_px: where each lobe has fallen to 1/e; all grow from
        `first_radius_px`.
      growth_s: time constant of that growth.
      peak: brightness reached, relative to full scale.
      brighten_s: time constant with which it is reached.
      first_colour, core_colour, halo_colour: RGB, relative.
    """

    begin_s: float
    end_s: float
    labelled: bool
    centre_px: Float[np.ndarray, "lobes 2"]
    final_radius_px: Float[np.ndarray, "lobes"]
    growth_s: float
    peak: float
    brighten_s: float = _BRIGHTEN_S
    first_radius_px: float = 0.8
    first_colour: Float[np.ndarray, "3"] = dataclasses.field(
        default_factory=lambda: _RED
    )
    core_colour: Float[np.ndarray, "3"] = dataclasses.field(
        default_factory=lambda: _PINK_WHITE
    )
    halo_colour: Float[np.ndarray, "3"] = dataclasses.field(
        default_factory=lambda: _HALO_COLOURS[0]
    )

    @property
    def gone_s(self) -> float:
        """When nothing is left to be seen of it."""
        return self.end_s + 5 * _FADE_S

    def brightness(self, time_s: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Brightness of the core, relative to full scale."""
        lit_s = np.minimum(time_s, self.end_s) - self.begin_s
        fading_s = np.maximum(time_s - self.end_s, 0)
        rise = -np.expm1(-lit_s / self.brighten_s)
        return self.peak * rise * np.exp(-fading_s / _FADE_S)

    def whiteness(self, time_s: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """From the first red dot (0) to the white core (1)."""
        return -np.expm1(-(time_s - self.begin_s) / _WHITEN_S)

    def core_and_halo(
        self, time_s: Float[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "n 64 64"], Float[np.ndarray, "n 64 64"]]:
        """Shape of the lobes together, and of the wider halo; both have peak 1."""
        growth = -np.expm1(-(time_s - self.begin_s) / self.growth_s)
        core = np.zeros((len(time_s), SIZE_PX, SIZE_PX), np.float32)
        halo = core.copy()
        for centre, final in zip(self.centre_px, self.final_radius_px, strict=True):
            radius = self.first_radius_px + growth * (final - self.first_radius_px)
            np.maximum(core, _lobe(centre, radius), out=core)
            np.maximum(halo, _lobe(centre, 2.6 * radius), out=halo)
        return core, halo


def _lobe(
    centre: Float[np.ndarray, "2"], radius: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 64 64"]:
    narrow = -1.0 / radius[:, None] ** 2
    rows = np.exp(narrow * (_GRID - centre[0]) ** 2).astype(np.float32)
    columns = np.exp(narrow * (_GRID - centre[1]) ** 2).astype(np.float32)
    return rows[:, :, None] * columns[:, None, :]


def draw_spots(operation: Operation, shell: Shell) -> list[Spot]:
    """Draws a labelled spot for each visible episode, an unlabelled one per spark."""
    spells = operation.spells
    rng = generator(operation.seed, "spots")
    spots = [
        _semi_molten_spot(rng, shell, float(begin), float(end))
        for begin, end in zip(spells.seen_begin_s, spells.seen_end_s, strict=True)
    ]
    spots = [spot for spot, seen in zip(spots, spells.seen, strict=True) if seen]
    rng = generator(operation.seed, "spark look")
    return spots + [
        _spark(rng, float(begin), float(end))
        for begin, end in operation.events["sparks"]
    ]


def _semi_molten_spot(
    rng: np.random.Generator, shell: Shell, begin_s: float, end_s: float
) -> Spot:
    lobes = int(rng.choice((1, 2, 3, 4), p=(0.4, 0.3, 0.2, 0.1)))
    offset = np.clip(rng.normal(0, 4.0, (lobes, 2)), -10, 10)
    offset[0] = rng.normal(0, 1.5, 2)
    site = shell.sites_px[rng.integers(len(shell.sites_px))]
    return Spot(
        begin_s,
        end_s,
        labelled=True,
        centre_px=np.clip(site + offset, 2, SIZE_PX - 3),
        final_radius_px=rng.uniform(1.2, 4.2, lobes),
        growth_s=rng.uniform(20, 70),
        peak=rng.uniform(0.4, 1.1),
        halo_colour=_HALO_COLOURS[rng.integers(2)],
    )


def _spark(rng: np.random.Generator, begin_s: float, end_s: float) -> Spot:
    return Spot(
        begin_s,
        end_s,
        labelled=False,
        centre_px=rng.uniform(4, 60, (1, 2)),
        final_radius_px=rng.uniform(0.8, 1.6, 1),
        growth_s=1.0,
        peak=rng.uniform(0.5, 1.0),
        brighten_s=0.2,
        first_colour=_PINK_WHITE,
    )
