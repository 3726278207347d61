import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmalign_jax import cli
from fmalign_jax.systems.cmg import CmgFeatures
from fmalign_jax.systems.code_statistics import CodeStatistics
from fmalign_jax.training import logged_values
from fmalign_jax.training.metrics import Mean


def _codes(rows, mask=None):
    """Statistics of a batch whose modalities use the given codes [B, T]."""
    codes = {name: jnp.asarray(values, jnp.int32) for name, values in rows.items()}
    embeddings = jnp.eye(4, dtype=jnp.float32)
    vectors = {name: embeddings[values] for name, values in codes.items()}
    count = len(next(iter(codes.values())))
    return CodeStatistics.from_features(
        CmgFeatures(
            inputs={},
            semantic=vectors,
            specific={},
            pooled_specific={},
            codes=codes,
            code_vectors=vectors,
            quantized=vectors,
            embeddings=embeddings,
            mask=jnp.ones(count, bool) if mask is None else jnp.asarray(mask),
        )
    )


SAME = {"current": [[0, 1]], "video": [[0, 1]]}
APART = {"current": [[2, 2]], "video": [[3, 3]]}


def _step(loss, rows=SAME, **scalars):
    """Metrics of one step, as those of several are: the first axis counts steps."""
    metrics = {
        "scalars": {"loss": jnp.asarray(loss), **scalars},
        "statistics": _codes(rows),
    }
    return jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)


def test_a_meter_reports_means_and_starts_over():
    meter = logged_values.Meter(first_step=1, batch_size=4)
    meter.add(_step(1.0))
    meter.add(_step(3.0, APART))
    values = meter.report()
    assert values["loss"] == 2.0
    assert values["token_agreement/current-video"] == 0.5
    assert values["equal_num"] == 1
    # Use of codes over both steps: a quarter each of 0 and 1, half of 2.
    entropy = 2 * 0.25 * math.log(4) + 0.5 * math.log(2)
    assert values["perplexity/current"] == pytest.approx(math.exp(entropy))
    meter.add(_step(7.0))
    assert meter.report()["loss"] == 7.0


def test_speed_and_waiting(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 8.0, 8.0])
    monkeypatch.setattr(logged_values.time, "perf_counter", lambda: next(clock))
    meter = logged_values.Meter(first_step=1, batch_size=4)
    assert meter.next_batch(iter(["batch"])) == "batch"
    meter.add(_step(1.0))
    values = meter.report()
    assert values["windows_per_s"] == pytest.approx(4 / 8)
    assert values["waiting_share"] == pytest.approx(2 / 8)


def test_a_value_that_is_not_finite_names_its_step_and_the_term_first():
    meter = logged_values.Meter(first_step=11, batch_size=4)
    meter.add(_step(1.0, **{"loss/club": 0.0}))
    meter.add(_step(math.nan, **{"loss/club": math.inf}))
    with pytest.raises(FloatingPointError, match=r"step 12 loss/club, loss were not"):
        meter.report()


def test_a_validation_value_that_is_not_finite_is_named_as_such():
    with pytest.raises(
        FloatingPointError, match=r"every validation value .* at step 8"
    ):
        logged_values.check_finite({"loss": math.nan}, step=8, split="validation")


def test_the_names_of_an_evaluation_are_known_before_it():
    mask = jnp.ones(1, bool)
    scalars = {"loss": Mean.of(jnp.ones(1), mask)}
    metrics = {"scalars": scalars, "statistics": _codes(SAME)}
    shapes = jax.eval_shape(lambda: metrics)
    names = logged_values.summarise([logged_values.blank(shapes)]).keys()
    assert names == logged_values.summarise([metrics]).keys()
    assert {"loss", "perplexity/current"} <= names


def test_a_summary_counts_each_window_once():
    rng = np.random.default_rng(0)
    losses = rng.normal(size=10).astype(np.float32)
    rows = {name: rng.integers(0, 4, (10, 3)) for name in SAME}
    batches = []
    for start in (0, 4, 8):
        mask = start + np.arange(4) < 10
        taken = np.minimum(start + np.arange(4), 9)
        batches.append(
            {
                "scalars": {"loss": Mean.of(jnp.asarray(losses[taken]), mask)},
                "statistics": _codes({n: r[taken] for n, r in rows.items()}, mask),
            }
        )
    values = logged_values.summarise(batches)
    assert values["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    agreement = (rows["current"] == rows["video"]).mean()
    assert values["token_agreement/current-video"] == pytest.approx(agreement)
    assert all(isinstance(value, float) for value in values.values())


def test_a_table_lines_up(capsys):
    cli.print_table([["a", "1"], ["long", "2"]])
    assert capsys.readouterr().out == "  a     1\n  long  2\n"
