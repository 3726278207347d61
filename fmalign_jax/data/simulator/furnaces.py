"""Furnaces with a known lead, simulated and written in the benchmark's layout.

`simulate` gives one recording in memory. `SimulatedFurnaces` writes a whole data set
in layout V2 on first use and reads it back as any benchmark directory is read, so
that simulated and real recordings are read in the same way. The model is described,
with units and with what in it is assumption, in docs/simulator.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fmalign_jax.data import croissant
from fmalign_jax.data.files import source_digest
from fmalign_jax.data.fmf import BenchmarkDirectory, write_recording, write_split
from fmalign_jax.data.simulator.circuit import (
    clock_offset_s,
    log_rows,
    simulate_current,
    simulate_volatility,
)
from fmalign_jax.data.simulator.operation import Operation, operate
from fmalign_jax.data.simulator.processes import generator
from fmalign_jax.data.simulator.profiles import FurnaceProfile, changed
from fmalign_jax.data.simulator.renderer import render
from fmalign_jax.progress import Bar
from fmalign_jax.structs import Recording

VERSION = 2
"""Raised whenever the same parameters give other recordings than before."""

_PARAMETERS = "simulation.json"
# The benchmark's own shares: 10 000 test and 1 000 unused frames of 31 826.
_TEST_SHARE = 0.28
_GUARD_SHARE = 0.03


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a recording does not contain, known because it was simulated.

    Attributes:
      lead_s: how far the current is ahead of the video by the clocks of the recording
        (half-point to half-point, clock offset included): what a search should find.
        NaN when the current shows nothing.
      clock_offset_s: by how much the clock of the current is late.
      time_s: [T] twice a second, true time from the start of the recording.
      state: [T] e(t), the state as the current shows it.
      visible: [T] y(t), the state as the shell shows it.
      volatility: [T] s(t), the relative noise of the arcs.
      spells: the fields of the episodes (see `operation.Spells`) by name.
      events: begin and end [n, 2] in seconds by kind of event.
    """

    lead_s: float
    clock_offset_s: float
    time_s: Float[np.ndarray, "T"]
    state: Bool[np.ndarray, "T"]
    visible: Bool[np.ndarray, "T"]
    volatility: Float[np.ndarray, "T"]
    spells: Mapping[str, Shaped[np.ndarray, "n"]]
    events: Mapping[str, Float[np.ndarray, "_ 2"]]

    def save(self, path: pathlib.Path) -> None:
        """Writes it as .npz without pickles: spell_<field>, event_<kind>, the rest."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        spells = {f"spell_{k}": v for k, v in fields.pop("spells").items()}
        events = {f"event_{k}": v for k, v in fields.pop("events").items()}
        np.savez(path, allow_pickle=False, **fields, **spells, **events)


@dataclasses.dataclass(frozen=True)
class SimulatedFurnace:
    """One simulated recording.

    Attributes:
      name: such as "SaveToAvi-4-19-21_40_52-6002", after the moment it starts.
      frames: uint8 [N, 64, 64, 3].
      masks: uint8 [N, 64, 64], 1 where the condition is abnormal.
      frame_second: datetime64[s] [N], the second each frame belongs to.
      current: float64 [M, 3], amperes of the phases a, b, c.
      current_second: datetime64[s] [M], by the clock of the current.
      truth: what the recording does not contain.
    """

    name: str
    frames: UInt8[np.ndarray, "N 64 64 3"]
    masks: UInt8[np.ndarray, "N 64 64"]
    frame_second: Shaped[np.ndarray, "N"]
    current: Float[np.ndarray, "M 3"]
    current_second: Shaped[np.ndarray, "M"]
    truth: Truth


def simulate(
    profile: FurnaceProfile,
    *,
    duration_s: float,
    seed: int,
    frame_rate_hz: float = 1.0,
    furnace: int | None = None,
) -> SimulatedFurnace:
    """Simulates one recording of one furnace.

    The same seed gives the same operation and currents at any frame rate.

    Args:
      profile: what the furnace is like.
      duration_s: length of the recording.
      seed: of the recording.
      frame_rate_hz: frames a second.
      furnace: number of the furnace; recordings with the same number share its
        traits. None gives the recording a furnace of its own.

    Raises:
      ValueError: a parameter is not usable.
    """
    if frame_rate_hz <= 0 or duration_s * frame_rate_hz < 1:
        raise ValueError(
            "a recording must hold at least one frame; got frame_rate_hz="
            f"{frame_rate_hz} for {duration_s} s; raise one of them"
        )
    number = seed if furnace is None else furnace
    operation = operate(profile, duration_s=duration_s, seed=seed, furnace=number)
    name, start = _name_and_start(seed)
    row_time_s, amperes = simulate_current(operation)
    row, stamp_s = log_rows(operation, len(amperes))
    frame_time_s = np.arange(math.floor(duration_s * frame_rate_hz)) / frame_rate_hz
    frames, masks = render(operation, frame_time_s)
    kept = _kept_frames(operation, len(frames))
    return SimulatedFurnace(
        name=name,
        frames=frames[kept],
        masks=masks[kept],
        # The small shift keeps 0.3 s * 10 Hz = 2.999... in second 3.
        frame_second=start + _whole_seconds(frame_time_s[kept] + 1e-6),
        current=amperes[row],
        current_second=start + _whole_seconds(stamp_s),
        truth=_truth(operation, row_time_s),
    )


def _whole_seconds(time_s: Float[np.ndarray, "N"]) -> Shaped[np.ndarray, "N"]:
    return np.floor(time_s).astype("timedelta64[s]")


def _name_and_start(seed: int) -> tuple[str, np.datetime64]:
    """A name in the form of the real recordings, and the moment it stands for."""
    rng = generator(seed, "name")
    start = datetime.datetime(2018, 3, 1) + datetime.timedelta(
        days=int(rng.integers(240)), seconds=int(rng.integers(24 * 3600))
    )
    number = rng.integers(1000, 10_000)
    name = f"SaveToAvi-{start.month}-{start.day}-{start:%H_%M_%S}-{number}"
    return name, np.datetime64(start, "s")


def _kept_frames(operation: Operation, frames: int) -> Int[np.ndarray, "n"]:
    rng = generator(operation.seed, "missing frames")
    lost = rng.uniform(0.005, 0.02) * operation.profile.missing_frames
    kept = np.flatnonzero(rng.uniform(size=frames) >= lost)
    return kept if len(kept) else np.arange(frames)


def _truth(operation: Operation, time_s: Float[np.ndarray, "T"]) -> Truth:
    offset_s = clock_offset_s(operation)
    lead_s = operation.lead_s - offset_s if operation.profile.precursor else math.nan
    spells = operation.spells
    return Truth(
        lead_s=lead_s,
        clock_offset_s=offset_s,
        time_s=time_s,
        state=operation.state(time_s),
        visible=operation.visible(time_s),
        volatility=simulate_volatility(operation),
        spells={f.name: getattr(spells, f.name) for f in dataclasses.fields(spells)},
        events=operation.events,
    )


def _parameters_of(profile: FurnaceProfile) -> dict[str, Any]:
    """Returns the fields of a profile, as they name a data set.

    What was added to profiles later is left out where it changes nothing, so that sets
    written before are found again.
    """
    fields = dataclasses.asdict(profile)
    return {k: v for k, v in fields.items() if (k, v) != ("lead_spread_s", 0.0)}


class SimulatedFurnaces:
    """A data source of simulated furnaces, written once and read from disk.

    Each parameter set has a folder of its own under `path`, named by profile and
    digest, in layout V2, with `truth/<name>.npz` beside (see `Truth.save`). A folder
    appears under its final name only when it is complete.
    """

    def __init__(
        self,
        path: str,
        *,
        profile: str = "default",
        changes: Mapping[str, Any] | None = None,
        recordings: int = 12,
        test_recordings: int = 3,
        recordings_per_furnace: int = 1,
        duration_s: float = 1800.0,
        frame_rate_hz: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Writes the recordings if they are not there yet.

        Args:
          path: folder that holds all simulated data sets.
          profile: a name in `profiles.PROFILES`; hyphens serve as underscores.
          changes: fields of `FurnaceProfile` to set otherwise, such as
            ``{"lead_s": (180.0, 300.0), "trips": False}``; one number for a fixed lead.
          recordings: how many.
          test_recordings: how many of them are for testing, the last ones. 0 gives
            each recording a test block at its end, as in the benchmark.
          recordings_per_furnace: how many share a furnace.
          duration_s: length of each.
          frame_rate_hz: frames a second.
          seed: of the whole set; another seed gives other furnaces.

        Raises:
          ValueError: an unknown profile or change, or a number out of range.
        """
        profile = profile.replace("-", "_")
        self._profile = changed(profile, changes or {})
        if not 0 <= test_recordings < recordings or recordings_per_furnace < 1:
            raise ValueError(
                "0 <= test_recordings < recordings and recordings_per_furnace >= 1 are "
                f"needed; got {test_recordings}, {recordings} and "
                f"{recordings_per_furnace}; correct them"
            )
        self._parameters: dict[str, Any] = {
            "version": VERSION,
            "profile": _parameters_of(self._profile),
            "recordings": recordings,
            "test_recordings": test_recordings,
            "recordings_per_furnace": recordings_per_furnace,
            "duration_s": float(duration_s),
            "frame_rate_hz": float(frame_rate_hz),
            "seed": seed,
        }
        root = pathlib.Path(path).expanduser()
        self.directory = root / f"{profile}-{self.fingerprint()}"
        if not (self.directory / _PARAMETERS).is_file():
            self._write()
        self._benchmark = BenchmarkDirectory(str(self.directory))

    def names(self) -> list[str]:
        """Names of the recordings, sorted."""
        return self._benchmark.names()

    def read(self, name: str) -> Recording:
        """Reads one recording."""
        return self._benchmark.read(name)

    def masks(
        self, name: str, frame: Int[np.ndarray, "n"]
    ) -> Bool[np.ndarray, "n 64 64"]:
        """Reads where the glow was drawn, as `BenchmarkDirectory.masks`."""
        return self._benchmark.masks(name, frame)

    def fingerprint(self) -> str:
        """Digest of all parameters of the simulation and of its version."""
        text = json.dumps(self._parameters, sort_keys=True)
        return source_digest(text, digits=12)

    def _write(self) -> None:
        """Builds in a temporary folder beside, and renames it when all is there."""
        if self.directory.exists():
            raise ValueError(
                f"{self.directory}: a simulated data set holds {_PARAMETERS}; got a "
                "folder without it, so it may be incomplete; remove that folder"
            )
        parent = self.directory.parent
        parent.mkdir(parents=True, exist_ok=True)
        building = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{self.directory.name}-", dir=parent)
        )
        try:
            self._write_all(building)
            text = json.dumps(self._parameters, indent=2)
            (building / _PARAMETERS).write_text(text)
            croissant.write(building, self._described(building))
            building.chmod(0o755)
            os.rename(building, self.directory)
        except OSError:
            # Somebody else may have finished the same set in the meantime.
            if not (self.directory / _PARAMETERS).is_file():
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        # What killed ones left. One that is under way finds the set finished, as above.
        for left in parent.glob(f".{self.directory.name}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _described(self, root: pathlib.Path) -> dict[str, Any]:
        said = f"Simulated furnaces, not real ones, as {_PARAMETERS} says."
        return {**croissant.layout_v2(root, said), "name": self.directory.name}

    def _write_all(self, root: pathlib.Path) -> None:
        (root / "truth").mkdir()
        count, tests = (self._parameters[k] for k in ("recordings", "test_recordings"))
        split: dict[str, dict[str, Int[np.ndarray, "_"]]] = {"train": {}, "test": {}}
        for position in Bar(range(count), "simulating furnaces"):
            name, frames = self._write_one(root, position)
            index = np.arange(frames)
            if tests:
                part = "test" if position >= count - tests else "train"
                split[part][name] = index
            else:
                test = round(frames * (1 - _TEST_SHARE))
                split["test"][name] = index[test:]
                split["train"][name] = index[: test - round(frames * _GUARD_SHARE)]
        write_split(root, split)

    def _write_one(self, root: pathlib.Path, position: int) -> tuple[str, int]:
        parameters = self._parameters
        # Far enough apart that no two sets share a recording.
        first = 1_000_000 * parameters["seed"]
        furnace = simulate(
            self._profile,
            duration_s=parameters["duration_s"],
            seed=first + position,
            frame_rate_hz=parameters["frame_rate_hz"],
            furnace=first + position // parameters["recordings_per_furnace"],
        )
        write_recording(
            root,
            furnace.name,
            frames=furnace.frames,
            masks=furnace.masks,
            frame_second=furnace.frame_second,
            current=furnace.current,
            current_second=furnace.current_second,
        )
        furnace.truth.save(root / "truth" / f"{furnace.name}.npz")
        return furnace.name, len(furnace.frames)
