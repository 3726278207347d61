"""Settings that cannot work, refused before anything is read or compiled.

What only the data or a component can tell (shapes, names of arguments) is checked
there.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from typing import Any

from ml_collections import ConfigDict

from fmalign_jax.config.default import LAG_STEM, shared_level

POSITIVE = (
    "batch_size",
    "epochs",
    "log_every_steps",
    "eval_every_epochs",
    "checkpoint_every_steps",
    "steps_per_dispatch",
    "model.width",
    "model.transformer.heads",
    "codebook.codes",
    "codebook.idle_steps",
    "optimizer.clip_norm",
    "optimizer.epsilon",
)
"""Settings that must be above 0."""

SHARES = ("flip", "mask")
"""Augmentations whose strength is a share of the windows or ticks."""


def check_config(config: ConfigDict) -> None:
    """Checks the settings that need no data, and warns of what is unlikely to work.

    Raises:
      ValueError: naming the setting, what it was, and what it may be.
    """
    if missing := [key for key in ("data", "model") if key not in config]:
        raise ValueError(
            f"what is trained is a config with data and model; got one without "
            f"{' and '.join(missing)}, which is for another command; give such as "
            "pretrain or recordings"
        )
    for key in POSITIVE:
        value = _setting(config, key)
        if value is not None and not value > 0:
            raise ValueError(f"{key} must be above 0; got {value}; correct the config")
    if config.compute_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            "compute_dtype must be 'float32' or 'bfloat16'; got "
            f"{config.compute_dtype!r}; use one of them"
        )
    _check_cadences(config)
    _check_drawn_leads(config)
    _check_lead_range(config)
    _check_model(config)
    _check_codebook(config)
    _check_shared_level(config)
    _check_augmentation(config)
    _check_objectives(config)


def _setting(config: ConfigDict, key: str) -> Any:
    """Returns a setting, None where the config's system has no such section."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            return None
        value = value[part]
    return value


def _check_cadences(config: ConfigDict) -> None:
    together = config.steps_per_dispatch
    for key in ("log_every_steps", "checkpoint_every_steps"):
        if config[key] % together:
            raise ValueError(
                f"{key} must be a multiple of steps_per_dispatch; got {config[key]} "
                f"and {together}; use --config.{key}="
                f"{together * max(1, round(config[key] / together))}"
            )


def _check_drawn_leads(config: ConfigDict) -> None:
    data = config.data
    leads_s = [data.lead_s, *data.other_leads_s]
    if data.draw_lead and len(set(leads_s)) < max(2, len(leads_s)):
        raise ValueError(
            "data.draw_lead draws one of data.lead_s and data.other_leads_s, two or "
            f"more that differ; got {leads_s}; give other_leads_s, such as "
            "configs/pretrain.py:any_lead does"
        )


def _check_lead_range(config: ConfigDict) -> None:
    """The range and the stem that reads it go together."""
    data = config.data
    name, known_samples = "", None
    if data.leading_stream in config.model.modalities:
        stem = config.model.modalities[data.leading_stream].stem
        name, known_samples = stem.name, stem.get("samples_per_tick")
    reads_range = name == LAG_STEM
    if data.lead_range_s and data.draw_lead:
        raise ValueError(
            "data.lead_range_s reads all leads of a range; got data.draw_lead=True, "
            "which draws one; set either"
        )
    if data.lead_range_s and name.startswith("fmalign_jax.") and not reads_range:
        raise ValueError(
            "data.lead_range_s needs a stem that reads several leads, LagStem; got "
            f"{name} for {data.leading_stream!r}; use read_lead_range of "
            "fmalign_jax.config, or the variant configs/pretrain.py:lead_range"
        )
    samples = data.samples_per_tick.get(data.leading_stream)
    if reads_range and known_samples != samples:
        raise ValueError(
            f"the stem of {data.leading_stream!r} must know its samples of a tick; got "
            f"samples_per_tick={known_samples} there and {samples} in "
            f"data.samples_per_tick; set model.modalities.{data.leading_stream}.stem."
            "samples_per_tick too"
        )


def _check_model(config: ConfigDict) -> None:
    modalities, sampled = (
        set(config.model.modalities),
        set(config.data.samples_per_tick),
    )
    if modalities != sampled:
        raise ValueError(
            "data.samples_per_tick must give the modalities of the model, "
            f"{sorted(modalities)}; got {sorted(sampled)}; correct either"
        )
    for modality, parts in config.model.modalities.items():
        for part in ("stem", "specific"):
            _check_features(f"model.modalities.{modality}.{part}", parts.get(part))
    width, heads = config.model.width, _setting(config, "model.transformer.heads")
    if heads is not None and width % heads:
        raise ValueError(
            "model.transformer.heads must divide model.width; got "
            f"{heads} heads for width {width}; use a divisor such as 4"
        )
    causal = _setting(config, "model.transformer.causal")
    if causal not in (None, True, False):
        raise ValueError(
            f"model.transformer.causal must be True or False; got {causal!r}; use one "
            "of them"
        )


def _check_features(key: str, part: ConfigDict | None) -> None:
    if part is None or not part.get("name", "").startswith("fmalign_jax."):
        return
    features = part.get("features", 1)
    widths = features if isinstance(features, tuple | list) else [features]
    if not widths or not all(_whole(width, 1) for width in widths):
        raise ValueError(
            f"{key}.features must be whole numbers above 0, one or more; got "
            f"{features!r}; correct the config"
        )


def _check_codebook(config: ConfigDict) -> None:
    decay = _setting(config, "codebook.decay")
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(
            f"codebook.decay must lie in [0, 1); got {decay}; use one such as 0.95"
        )


def _check_shared_level(config: ConfigDict) -> None:
    shared = _setting(config, "codebook.shared")
    if shared is None:
        return
    given, known = set(shared), set(inspect.signature(shared_level).parameters)
    # A run that was saved before these keys lacks them.
    lacking = known - given - {"student_weight", "skip_ticks"}
    if given - known or lacking:
        raise ValueError(
            f"codebook.shared must give {', '.join(sorted(known))}; got "
            f"{', '.join(sorted(given)) or 'nothing'}; write the entry by "
            "shared_level(teacher=...), or None for no shared level"
        )
    ticks, width = config.data.window_ticks, config.model.width
    modalities = sorted(config.model.modalities)
    skip = shared.get("skip_ticks", 0)
    skips = _whole(skip, 0, ticks - 1)
    looked_at = ticks - skip if skips else ticks
    divides = _whole(shared.segments, 1, ticks) and looked_at % shared.segments == 0
    for key, rule, holds in (
        ("teacher", f"one of {', '.join(modalities)}", shared.teacher in modalities),
        ("codes", "a whole number from 2 on", _whole(shared.codes, 2)),
        (
            "directions",
            f"a whole number from 1 to model.width, {width}",
            _whole(shared.directions, 1, width),
        ),
        (
            "skip_ticks",
            f"a whole number from 0 on, less than data.window_ticks, {ticks}",
            skips,
        ),
        (
            "segments",
            f"a divisor of data.window_ticks less skip_ticks, {looked_at}",
            divides,
        ),
        ("ridge", "0 or more", _number(shared.ridge) and 0 <= shared.ridge < math.inf),
        (
            "student_weight",
            "from 0 to 1",
            _number(weight := shared.get("student_weight", 0.0)) and 0 <= weight <= 1,
        ),
    ):
        if not holds:
            raise ValueError(
                f"codebook.shared.{key} must be {rule}; got {shared[key]!r}; correct "
                "the config"
            )


def _whole(value: Any, least: int, most: int = sys.maxsize) -> bool:
    return type(value) is int and least <= value <= most


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _check_augmentation(config: ConfigDict) -> None:
    for modality, strengths in config.augment.items():
        for name, strength in strengths.items():
            rule = _broken_rule(name, strength)
            if rule:
                raise ValueError(
                    f"augment.{modality}.{name} must be {rule}; got {strength}; "
                    "correct the config, 0 switches it off"
                )


def _broken_rule(augmentation: str, strength: float | int) -> str | None:
    if augmentation in SHARES:
        return None if 0 <= strength <= 1 else "a share in [0, 1]"
    if augmentation == "crop" and strength % 1:
        return "a whole number of pixels"
    return None if strength >= 0 else "0 or more"


def _check_objectives(config: ConfigDict) -> None:
    weights = {name: term.weight for name, term in config.objectives.items()}
    if not any(weights.values()):
        raise ValueError(
            f"a run needs an objective with a weight; got {weights}; give one a weight "
            "above 0"
        )
    for name, term in config.objectives.items():
        first = term.get("from_epoch", 0.0)
        if not (_number(first) and first >= 0):
            raise ValueError(
                f"objectives.{name}.from_epoch must be an epoch, 0 or later; got "
                f"{first!r}; correct the config"
            )
        if term.weight and term.get("name", "").endswith(".CrossCpc"):
            _warn_of_short_windows(name, term.get("steps", 5), config.data.window_ticks)


def _warn_of_short_windows(name: str, steps: int, ticks: int) -> None:
    if steps >= 5 and ticks < 20:
        logging.warning(
            "objectives.%s.steps of 5 and more want windows of 20 ticks and more; got "
            "%d steps and %d ticks; raise data.window_ticks or lower steps",
            name,
            steps,
            ticks,
        )
