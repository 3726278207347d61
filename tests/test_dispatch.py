"""What the host does between steps: nothing moves, nothing is compiled anew.

One run dispatches single steps. Another dispatches two at a time, is stopped, goes on
to an odd step, and ends with streamed windows.
"""

import json

import jax
import pytest
import tiny

from fmalign_jax import train
from fmalign_jax.run.checkpoints import Checkpoints

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    pytest.mark.slow,
    pytest.mark.timeout(900),  # fixtures compile
]

STEPS = 14  # two epochs of seven
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


@pytest.fixture(scope="module", autouse=True)
def smooth():
    """Programs of one and of two steps round differently."""
    with tiny.smooth_critics():
        yield


def _config(folder, **changes):
    config = tiny.tiny_config(folder)
    config.max_steps = 0
    config.epochs = 2.0
    config.checkpoint_every_steps = 100
    config.score = "-loss"
    config.data.resident = True
    config.update_from_flattened_dict(tiny.LIGHT)
    config.objectives.cross_cpc.weight = 0.0
    # Adam would make steps of full size of rounding (docs/architecture.md).
    config.optimizer.epsilon = 1e-3
    config.update_from_flattened_dict(changes)
    return config


def _guarded(make):
    """Compiled steps that may not move anything between host and device."""

    def make_guarded(trainer, mesh):
        compiled = make(trainer, mesh)

        def run(*arguments):
            with jax.transfer_guard("disallow"):
                return compiled(*arguments)

        return run

    return make_guarded


@pytest.fixture(scope="module")
def watched_train():
    """train.train with guarded steps, which returns the batches drawn and programs."""
    events = []

    def note(event, duration, **about):
        if event == LOWERED:
            events.append(about.get("fun_name", "a program"))

    class Meter(train.logged_values.Meter):
        def next_batch(self, batches):
            events.append("batch")
            return super().next_batch(batches)

    def run(config, workdir):
        events.clear()
        train.train(config, workdir)
        return list(events)

    jax.monitoring.register_event_duration_secs_listener(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.logged_values, "Meter", Meter)
        for name in ("make_train_steps", "make_eval_step"):
            guarded = _guarded(getattr(train.train_step, name))
            patch.setattr(train.train_step, name, guarded)
        yield run
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def single(folder, watched_train):
    """A whole run of single steps on resident windows: (folder, events)."""
    return folder / "single", watched_train(_config(folder), folder / "single")


@pytest.fixture(scope="module")
def pairs(folder, watched_train):
    """A run of two steps a dispatch, stopped after the third: (folder, events)."""
    config = _config(folder, steps_per_dispatch=2)
    asked = iter([False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train.Interruption, "requested", lambda self, agree_after: next(asked)
        )
        return folder / "pairs", watched_train(config, folder / "pairs")


def _is_step(name):
    """Whether a program is a train step or an evaluation."""
    return "train_on_batch" in name or "evaluate" in name


def _between(events, batch, later):
    """What was compiled after a batch was drawn and before a later one, or the end."""
    drawn = [i for i, event in enumerate(events) if event == "batch"]
    end = len(events) if later is None else drawn[later - 1]
    return [event for event in events[drawn[batch - 1] : end] if event != "batch"]


def _lines(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_nothing_is_compiled_after_the_first_step_and_evaluation(single):
    events = single[1]
    assert events.count("batch") == STEPS
    assert [name for name in _between(events, 1, 2) if "train_on_batches" in name]
    # The first report, after step 2, compiles what it adds up with.
    assert not [name for name in _between(events, 2, 3) if _is_step(name)]
    assert not _between(events, 3, 7)
    assert [name for name in _between(events, 7, 8) if "evaluate" in name]
    assert not _between(events, 8, None)


def test_several_steps_are_compiled_once(pairs):
    events = pairs[1]
    assert events.count("batch") == 6
    assert [name for name in _between(events, 2, 3) if "train_on_batches" in name]
    assert not [name for name in _between(events, 3, None) if _is_step(name)]


def test_a_run_stops_between_dispatches(pairs):
    with Checkpoints(pairs[0] / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [6]
    assert [line["step"] for line in _lines(pairs[0])] == [2, 4, 6]


def _assert_alike(found, expected):
    assert [(x["step"], x["split"]) for x in found] == [
        (x["step"], x["split"]) for x in expected
    ]
    for line, other in zip(found, expected, strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"split", "windows_per_s", "waiting_share"}:
            assert line[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_pairs_of_steps_give_the_numbers_of_single_ones(single, pairs):
    expected = [line for line in _lines(single[0]) if line["step"] <= 6]
    _assert_alike(_lines(pairs[0]), expected)


def test_an_odd_number_of_steps_ends_where_it_should(pairs, folder, watched_train):
    config = _config(folder, steps_per_dispatch=2, max_steps=7)
    events = watched_train(config, pairs[0])
    assert events.count("batch") == 1
    with Checkpoints(pairs[0] / "checkpoints") as checkpoints:
        assert checkpoints.steps()[-1] == 7


def test_a_run_goes_on_with_streamed_windows(single, pairs, folder, watched_train):
    watched_train(_config(folder, **{"data.resident": False}), pairs[0])
    _assert_alike(_lines(pairs[0]), _lines(single[0]))
    assert _lines(pairs[0])[-1]["step"] == STEPS
