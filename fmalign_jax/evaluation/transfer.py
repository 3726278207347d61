"""A head fitted on one modality's features, applied unchanged to the other's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from numpy import ndarray

from fmalign_jax.config.saved import to_json
from fmalign_jax.evaluation import heads, splits as evaluation_splits
from fmalign_jax.evaluation.classification_metrics import resampling_units
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.report import Probabilities
from fmalign_jax.evaluation.splits import EvaluationSplits
from fmalign_jax.run.frozen_encoder import EncoderState, Encodings, FrozenEncoder
from fmalign_jax.systems.system import FUSED, make_system

L2 = {"shared": 0.005, "codes": 0.2, "semantic": 0.2}
"""Penalty of the logistic head by kind of features. A strong one keeps a head from
directions in which the modalities do not agree; shared features have none. Chosen on
validation people of UTD-MHAD; with one direction, on furnaces, it makes no
difference."""


def check(config: ConfigDict) -> None:
    """Refuses settings of an evaluation that cannot work.

    Raises:
      ValueError: several processes, no run, one modality, `FUSED` and another, or an
        unknown name.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"an evaluation runs in one process; got {jax.process_count()}; leave out "
            "--coordinator and --processes"
        )
    if not config.checkpoint:
        raise ValueError(
            "an evaluation needs a run; got none; give the folder that training named, "
            "as in fmalign evaluate RUN"
        )
    fused = (config.source == FUSED, config.target == FUSED)
    if any(fused) and not all(fused):
        raise ValueError(
            f"source and target must be two modalities, or both {FUSED!r}; got "
            f"{config.source!r} and {config.target!r}; correct --config.source or "
            "--config.target"
        )
    if config.source == config.target and not all(fused):
        raise ValueError(
            "source and target must be two modalities; got "
            f"{config.source!r} for both; correct --config.source or --config.target"
        )
    if all(fused) and (config.get("retrieval") or config.calibrate != "none"):
        raise ValueError(
            f"retrieval and calibrate compare two modalities; got {FUSED!r} alone; "
            "leave them out"
        )
    for name, known in (
        ("features", ("", "shared", "codes", "semantic")),
        ("standardise", ("head", "recording", "none")),
        ("calibrate", ("none", "paired")),
    ):
        if config[name] not in known:
            listed = ", ".join(one or "empty" for one in known)
            raise ValueError(
                f"{name} must be one of {listed}; got {config[name]!r}; use one of them"
            )
    for name in ("random_encoders", "oracle_epochs", "bootstrap_draws"):
        if config.get(name, 0) < 0:
            raise ValueError(
                f"{name} must be 0 (none) or more; got {config[name]}; correct it"
            )


def with_features(config: ConfigDict, run_config: ConfigDict) -> ConfigDict:
    """Returns the settings with the kind of features that the run has.

    If they ask for none: those of the shared level, else code vectors, else continuous.
    Where the head's penalty is left open, that for this kind.

    Raises:
      ValueError: the run's system does not have what they ask for.
    """
    kinds = kinds_of_features(make_system(run_config))
    chosen = config.copy_and_resolve_references()
    chosen.features = config.features or kinds[0]
    if chosen.features not in kinds:
        lacks = {"shared": "a shared level", "codes": "a codebook"}[chosen.features]
        raise ValueError(
            f"features={chosen.features} needs a system with {lacks}; this run of "
            f"{run_config.model.name} has none; use one of {', '.join(kinds)}"
        )
    if not chosen.head.l2:
        chosen.head.l2 = (L2[chosen.features],)
    return chosen


def kinds_of_features(system: Any) -> list[str]:
    """Returns the kinds of features that a system gives, the most shared one first."""
    given = {
        "shared": system.has_shared_level,
        "codes": system.has_codes,
        "semantic": True,
    }
    return [kind for kind, has in given.items() if has]


def settings_of(
    config: ConfigDict, step: int, splits: EvaluationSplits
) -> dict[str, Any]:
    """Returns all that affects the result, whatever the folder of the run is called.

    Paths of recordings are left out too: their fingerprints differ.
    """
    settings = to_json(config)
    for key in (
        "checkpoint",
        *(f"{name}_data" for name in evaluation_splits.RUN_SPLITS),
    ):
        del settings[key]
    # Off, a later key changes nothing: the folder is that of an evaluation without it.
    if settings.get("channels", {}).get("kind") == "all":
        del settings["channels"]
    for name in ("retrieval", "few_shot", "localisation", "classifiers"):
        if not settings.get(name, True):
            del settings[name]
    if not settings.get("open_set", {"known": 1})["known"]:
        del settings["open_set"]
    if settings["head"]["per"] == "class":
        del settings["head"]["per"]
    fingerprints = {n: split.store.fingerprint for n, split in splits.by_name.items()}
    return settings | {"step": step, "recordings": fingerprints}


def encode(
    encoder: FrozenEncoder,
    frozen: EncoderState,
    splits: EvaluationSplits,
    config: ConfigDict,
) -> dict[str, Encodings]:
    """Returns all splits as frozen encoders see them."""
    return {
        name: encoder(
            frozen,
            split.store,
            split.windows,
            keep_semantic=config.features == "semantic" or config.get("retrieval"),
        )
        for name, split in splits.by_name.items()
    }


def transfer(
    encoded: Mapping[str, Encodings],
    splits: EvaluationSplits,
    spec: HeadSpec,
    config: ConfigDict,
) -> tuple[Probabilities, dict[str, Any]]:
    """Trains a head on each modality and applies it to both.

    Returns:
      Class probabilities of all windows that are reported on, by direction and split;
      and the settings of the head, by the modality it was trained on.
    """
    head_split, known = splits.head, splits.head.known
    features = features_of(encoded, splits, config)
    probabilities, chosen = {}, {}
    for trained in dict.fromkeys((config.source, config.target)):
        head = heads.fit(
            spec,
            features[evaluation_splits.HEAD][trained][known],
            head_split.label[known],
            classes=len(splits.classes),
            groups=groups(head_split.chosen(known)),
            seed=config.seed,
        )
        chosen[trained] = dict(head.chosen)
        for tested in dict.fromkeys((config.target, config.source)):
            probabilities[f"{trained}->{tested}"] = {
                name: head.predict(features[name][tested]) for name in splits.reported
            }
    return probabilities, chosen


def features_of(
    encoded: Mapping[str, Encodings], splits: EvaluationSplits, config: ConfigDict
) -> dict[str, dict[str, Float[ndarray, "N T D"]]]:
    """Returns features by split and modality, standardised as asked for."""
    found: dict[str, dict[str, Float[ndarray, "N T D"]]] = {n: {} for n in encoded}
    for modality in dict.fromkeys((config.source, config.target)):
        head = encoded[evaluation_splits.HEAD].features(modality, config.features)
        for name, own in encoded.items():
            values = own.features(modality, config.features)
            if config.standardise == "recording":
                recording = splits.by_name[name].windows.recording
                values = _standardised_by(recording, values)
            elif config.standardise == "head":
                values = _standardised(values, of=head)
            found[name][modality] = values
    return found


def scale_of(
    features: Float[ndarray, "N T D"],
) -> tuple[Float[ndarray, " D"], Float[ndarray, " D"]]:
    """Returns what features are standardised by: mean, and what they are divided by."""
    return features.mean(axis=(0, 1)), features.std(axis=(0, 1)) + 1e-6


def _standardised(
    values: Float[ndarray, "N T D"], *, of: Float[ndarray, "n T D"]
) -> Float[ndarray, "N T D"]:
    mean, deviation = scale_of(of)
    return (values - mean) / deviation


def _standardised_by(
    recording: Int[ndarray, " N"], values: Float[ndarray, "N T D"]
) -> Float[ndarray, "N T D"]:
    """Standardises the windows of each recording by themselves."""
    found = np.empty_like(values)
    for number in np.unique(recording):
        own = values[recording == number]
        found[recording == number] = _standardised(own, of=own)
    return found


def groups(split: LabelledWindows) -> ndarray:
    """Returns what must stay together when a split is divided once more."""
    return resampling_units(split.windows.recording, split.windows.clip)[1]
