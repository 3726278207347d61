"""Calibration of a target's scores on a new recording, by its own video.

A furnace differs from those a head was trained on: its current lies higher or varies
more, and a level that suits the others is wrong for it. Its video is classified by the
frozen head, and those probabilities are labels enough to move and scale the current's
scores (as Platt 1999 does with true labels). No label of the recording is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from fmalign_jax.evaluation.population import over_recordings_and_seeds
from fmalign_jax.evaluation.report import Probabilities
from fmalign_jax.evaluation.splits import EvaluationSplits

LEAST_WINDOWS = 3.0
"""Windows of each class, summed probabilities, below which nothing is calibrated."""

BLOCKS = 4
"""Contiguous parts of a recording; each is calibrated by the others."""

EVERY_S = 300.0
"""How long a causal calibration is used before the next one is fitted."""

_SMALLEST = 1e-6


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Moves log-probabilities: softmax(scale * log p + offset).

    Attributes:
      scale: above 0; below 1 makes scores less certain.
      offset: [K], mean 0.
      windows: that it was fitted on; 0 for the identity.
    """

    scale: float
    offset: Float[ndarray, " K"]
    windows: int

    @classmethod
    def identity(cls, classes: int) -> Calibration:
        """Returns what changes nothing."""
        return cls(1.0, np.zeros(classes), 0)

    def __call__(self, probability: Float[ndarray, "N K"]) -> Float[ndarray, "N K"]:
        """Returns calibrated class probabilities."""
        scores = np.log(np.maximum(probability, _SMALLEST))
        return softmax(self.scale * scores + self.offset, axis=1)


def fit(
    probability: Float[ndarray, "N K"], reference: Float[ndarray, "N K"]
) -> Calibration:
    """Fits a calibration that maximises the reference's likelihood.

    Every class weighs the same, however rare it is in this recording: the level does
    not follow how often the furnace happens to be abnormal. Scale and offsets have a
    normal prior of variance 1 around no change, so that few windows change little.

    Args:
      probability: of each class, by the head, of windows of the target.
      reference: probabilities of the same windows by the source (or true classes, 0
        and 1); rows of zeros do not count.

    Returns:
      The identity where a class has less than LEAST_WINDOWS windows.
    """
    classes = probability.shape[1]
    mass = reference.sum(axis=0)
    if mass.min() < LEAST_WINDOWS:
        return Calibration.identity(classes)
    scores = np.log(np.maximum(probability, _SMALLEST))
    weight = reference / mass / classes * mass.sum()

    def loss(parameters: ndarray) -> tuple[float, ndarray]:
        log_scale, offset = parameters[0], parameters[1:]
        scaled = np.exp(log_scale) * scores
        residual = weight.sum(axis=1, keepdims=True) * softmax(scaled + offset, axis=1)
        residual -= weight
        value = -(weight * log_softmax(scaled + offset, axis=1)).sum()
        gradient = np.array([(residual * scaled).sum(), *residual.sum(axis=0)])
        return value + 0.5 * parameters @ parameters, gradient + parameters

    found = minimize(loss, np.zeros(classes + 1), jac=True, method="L-BFGS-B").x
    return Calibration(
        float(np.exp(found[0])), found[1:] - found[1:].mean(), round(mass.sum())
    )


def by_recording(
    probability: Float[ndarray, "N K"],
    reference: Float[ndarray, "N K"],
    recording: Int[ndarray, " N"],
) -> Float[ndarray, "N K"]:
    """Calibrates every recording by itself; no window by its own reference.

    A recording is cut into BLOCKS contiguous parts, and each is calibrated by the
    others. Windows stand in order of time.
    """
    calibrated = np.array(probability)
    for number in np.unique(recording):
        rows = np.flatnonzero(recording == number)
        for block in np.array_split(rows, BLOCKS):
            others = np.setdiff1d(rows, block)
            found = fit(probability[others], reference[others])
            calibrated[block] = found(probability[block])
    return calibrated


def causal(
    probability: Float[ndarray, "N K"],
    reference: Float[ndarray, "N K"],
    at_s: Float[ndarray, " N"],
    *,
    known_after_s: float,
    stride: int,
    every_s: float = EVERY_S,
) -> Float[ndarray, "N K"]:
    """Calibrates every window of a series by what was known before it.

    Args:
      probability: of windows in order of time.
      reference: of the same windows.
      at_s: when the score of each is known, ascending.
      known_after_s: how much later its reference is known: the lead of the target.
      stride: windows so far apart share nothing; of those between, none counts.
      every_s: how long a calibration is used before the next is fitted.
    """
    calibrated = np.array(probability)
    blocks = np.floor((at_s - at_s[:1]) / every_s)
    for block in np.unique(blocks):
        rows = blocks == block
        past = np.flatnonzero(at_s + known_after_s <= at_s[rows][0])
        past = past[::-1][::stride]  # the latest first
        if len(past):
            found = fit(probability[past], reference[past])
            calibrated[rows] = found(probability[rows])
    return calibrated


def calibrated(
    probabilities: Probabilities, splits: EvaluationSplits, config: ConfigDict
) -> Probabilities:
    """Returns the probabilities with the source's head on the target calibrated.

    Args:
      probabilities: of each direction and split, as from `transfer`.
      splits: the windows.
      config: of the evaluation; names source and target.
    """
    own, across = (
        probabilities[f"{config.source}->{m}"] for m in (config.source, config.target)
    )
    found = {
        name: by_recording(across[name], own[name], split.windows.recording)
        for name, split in splits.reported.items()
    }
    return {**probabilities, f"{config.source}->{config.target}": found}


def describe(
    before: Mapping[str, Any], after: Mapping[str, Any], config: ConfigDict
) -> dict[str, Any]:
    """Returns the scores without calibration, and what it gained by recording.

    Args:
      before: scores of the direction, as from `score_splits`.
      after: the same, calibrated.
      config: of the evaluation.

    Returns:
      `uncalibrated`, the scores before; and `gain`, of the balanced accuracy on the
      headline split, the mean over recordings that have every class, with its standard
      error and 95 % interval over recordings; None where no recording has them.
    """
    gains = [
        after["by_recording"][name]["balanced_accuracy"] - own["balanced_accuracy"]
        for name, own in before["by_recording"].items()
        if own["balanced_accuracy"] is not None
    ]
    gain = None
    if gains:
        found = over_recordings_and_seeds(np.array(gains)[:, None])
        gain = {
            "balanced_accuracy": found.mean,
            "error": found.error,
            "interval": found.interval and list(found.interval),
            "recordings": found.recordings,
        }
    return {"kind": config.calibrate, "uncalibrated": before, "gain": gain}
