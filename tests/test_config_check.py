"""Settings that cannot work are refused first, by name, with what they may be."""

import logging
import math

import pytest
import tiny
from ml_collections import ConfigDict

from fmalign_jax.config import read_lead_range, shared_level
from fmalign_jax.config.check import check_config


def _changed(key, value):
    config = tiny.tiny_config()
    *path, last = key.split(".")
    part = config
    for name in path:
        part = part[name]
    with part.ignore_type():
        part[last] = value
    return config


def _shared(**changes):
    config = tiny.tiny_config()
    config.codebook.shared = shared_level(teacher="video")
    config.codebook.shared.update(changes)
    return config


def test_a_shared_level_passes_and_so_does_one_that_was_saved_earlier():
    check_config(_shared(codes=64, directions=16, segments=8, ridge=0.0))
    check_config(_shared(segments=3, skip_ticks=2))
    earlier = _shared()
    for later in ("student_weight", "skip_ticks"):
        del earlier.codebook.shared[later]
    check_config(earlier)


@pytest.mark.parametrize(
    ("key", "values", "rule"),
    [
        ("teacher", ["vidoe", "", None], "one of current, video"),
        ("codes", [1, 0, -1, 2.5, True, "2", None], "a whole number from 2 on"),
        ("directions", [0, -1, 17, 1.5], "a whole number from 1 to model.width, 16"),
        ("segments", [0, -1, 3, 2.0], "a divisor of data.window_ticks less skip"),
        ("skip_ticks", [-1, 8, 1.0, None, True], "a whole number from 0 on, less than"),
        ("ridge", [-0.1, math.nan, math.inf, "0.1"], "0 or more"),
        ("student_weight", [-0.1, 1.5, math.nan, None], "from 0 to 1"),
    ],
)
def test_a_shared_level_that_cannot_work_is_refused(key, values, rule):
    for value in values:
        config = tiny.tiny_config()
        config.codebook.shared = shared_level(teacher="video").to_dict() | {key: value}
        with pytest.raises(ValueError, match=rf"shared\.{key} must be {rule}.*; got"):
            check_config(config)


@pytest.mark.parametrize("changes", [{"code": 2}, {"ridge": None}, None])
def test_a_shared_level_has_its_keys_and_no_others(changes):
    entry = shared_level(teacher="video").to_dict()
    if changes is None:
        entry = {}
    elif "ridge" in changes:
        del entry["ridge"]
    else:
        entry |= changes
    config = tiny.tiny_config()
    config.codebook.shared = ConfigDict(entry)
    with pytest.raises(ValueError, match=r"codebook\.shared must give codes, .*; got"):
        check_config(config)


def test_the_tiny_config_passes(caplog):
    with caplog.at_level(logging.WARNING):
        check_config(tiny.tiny_config())
    assert not caplog.records


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, "batch_size must be above 0; got 0"),
        ("epochs", 0.0, "epochs must be above 0"),
        ("checkpoint_every_steps", 0, "checkpoint_every_steps must be above 0"),
        ("log_every_steps", 0, "log_every_steps must be above 0; got 0"),
        ("eval_every_epochs", 0.0, "eval_every_epochs must be above 0"),
        ("eval_every_epochs", -1.0, "eval_every_epochs must be above 0; got -1"),
        ("steps_per_dispatch", 0, "steps_per_dispatch must be above 0; got 0"),
        ("codebook.codes", 0, r"codebook\.codes must be above 0; got 0"),
        ("codebook.decay", 1.0, r"codebook\.decay must lie in \[0, 1\); got 1"),
        ("codebook.decay", -0.1, r"codebook\.decay must lie in"),
        ("optimizer.epsilon", 0.0, r"optimizer\.epsilon must be above 0"),
        ("optimizer.clip_norm", 0.0, r"optimizer\.clip_norm must be above 0"),
        ("compute_dtype", "bf16", "'float32' or 'bfloat16'; got 'bf16'"),
        ("model.transformer.causal", "no", "causal must be True or False; got 'no'"),
        (
            "model.modalities.video.specific.features",
            (),
            r"specific\.features must be whole numbers above 0, one or more; got \(\)",
        ),
        ("model.modalities.video.stem.features", (8, 0), r"stem\.features must be"),
        ("model.modalities.current.stem.features", (8.5, 8), r"stem\.features must be"),
        ("model.transformer.heads", 3, "must divide .* got 3 heads for width 16"),
        (
            "data.samples_per_tick",
            {"video": 1},
            r"the model, \['current', 'video'\]; got \['video'\]",
        ),
        ("augment.video.flip", 1.5, r"flip must be a share in \[0, 1\]; got 1.5"),
        ("augment.current.mask", -0.1, r"mask must be a share in \[0, 1\]"),
        ("augment.video.crop", 0.5, "crop must be a whole number of pixels"),
        ("augment.video.crop", -1, "crop must be 0 or more"),
        ("augment.current.jitter", -1.0, "jitter must be 0 or more; got -1"),
    ],
)
def test_what_cannot_work_is_refused(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_config(_changed(key, value))


@pytest.mark.parametrize("key", ["log_every_steps", "checkpoint_every_steps"])
def test_what_happens_between_dispatches_is_a_multiple_of_their_steps(key):
    config = tiny.tiny_config()
    config.log_every_steps = config.checkpoint_every_steps = 12
    config.steps_per_dispatch = 4
    check_config(config)
    config[key] = 10
    with pytest.raises(
        ValueError, match=rf"{key} must .* got 10 and 4; use --config\.{key}=8"
    ):
        check_config(config)


@pytest.mark.parametrize("others", [(), (5.0, 5.0), (2.0,)])
def test_drawn_leads_are_several_and_differ(others):
    config = tiny.tiny_config()
    config.data.update({"draw_lead": True, "lead_s": 2.0, "other_leads_s": others})
    with pytest.raises(ValueError, match=r"two or more that differ; got \[2.0"):
        check_config(config)
    config.data.other_leads_s = (4.0,)
    check_config(config)


def test_a_range_of_leads_and_its_stem_go_together():
    config = tiny.tiny_config()
    read_lead_range(config, 2.0, 2.0 + config.data.window_ticks * config.data.tick_s)
    check_config(config)
    config.data.draw_lead = True
    config.data.other_leads_s = (1.0, 3.0)
    with pytest.raises(ValueError, match="reads all leads of a range"):
        check_config(config)
    config.data.draw_lead = False
    config.model.modalities.current.stem.samples_per_tick = 3
    with pytest.raises(ValueError, match="got samples_per_tick=3 there and 2"):
        check_config(config)
    with pytest.raises(ValueError, match=r"in place of .*SensorStem"):
        read_lead_range(config, 2.0, 10.0)
    plain = tiny.tiny_config()
    plain.data.lead_range_s = (2.0, 8.0)
    with pytest.raises(ValueError, match="needs a stem that reads several leads"):
        check_config(plain)


def test_a_run_needs_an_objective():
    config = tiny.tiny_config()
    for term in config.objectives.values():
        term.weight = 0.0
    with pytest.raises(ValueError, match=r"needs an objective with a weight"):
        check_config(config)


@pytest.mark.parametrize(
    ("steps", "ticks", "warned"), [(5, 19, True), (5, 20, False), (4, 8, False)]
)
def test_many_steps_in_short_windows_are_warned_of(caplog, steps, ticks, warned):
    config = tiny.tiny_config()
    config.objectives.cross_cpc.steps = steps
    config.data.window_ticks = ticks
    with caplog.at_level(logging.WARNING):
        check_config(config)
    assert ("windows of 20 ticks and more" in caplog.text) == warned
    caplog.clear()
    config.objectives.cross_cpc.weight = 0.0
    check_config(config)
    assert not caplog.records
