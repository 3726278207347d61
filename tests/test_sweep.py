"""Members trained together: each equals the run that it would be alone."""

import json
import logging
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax import sweep, train
from fmalign_jax.data import dataset, pipeline
from fmalign_jax.models import encoders, mlp
from fmalign_jax.run import restore
from fmalign_jax.sweeps import data as sweep_data, loop
from fmalign_jax.sweeps.files import print_members
from fmalign_jax.sweeps.members import Member, member_configs
from fmalign_jax.sweeps.vmapped import VmappedRuns
from fmalign_jax.training import resident, sharding

CHANGED = {
    "seed": 3,
    "data.lead_s": 4.0,
    "optimizer.learning_rate": 5e-4,
    "optimizer.weight_decay": 5.0,
    "objectives.club.weight": 0.5,
}
pytestmark = pytest.mark.slow  # two steps, two starts and two evaluations to compile

MEMBERS = [
    Member("plain", {}),
    Member("changed", CHANGED),
    Member("diverging", {"optimizer.learning_rate": 1e30}),
]


@pytest.fixture(scope="module", autouse=True)
def smooth():
    """One device, and nets without kinks.

    Rounding decides on which side of a ReLU's kink a unit lies, and the critics' inner
    steps amplify it (see test_train_step.py). A smooth function that is zero at zero:
    with a mean far from zero (softplus) the first projection subtracts a bias of some
    500 to whiten, and float32 keeps four digits of what is left.
    """
    smooth = types.SimpleNamespace(**vars(nn) | {"relu": nn.gelu})
    with pytest.MonkeyPatch.context() as patch, tiny.visible_devices(1):
        for module in (mlp, encoders):
            patch.setattr(module, "nn", smooth)
        yield


@pytest.fixture(scope="module")
def config(folder):
    config = tiny.tiny_config(folder)
    config.max_steps = 4
    config.log_every_steps = 3
    # Adam then makes little of the rounding of a gradient.
    config.optimizer.epsilon = 1e-2
    # Only between the modalities, so that the bound can be told from the loss.
    config.objectives.cross_cpc.weights = {
        "video": {"current": 1.0},
        "current": {"video": 1.0},
    }
    return config


def _straight(config, folder):
    workdir = folder / "straight"
    states, table = sweep.train_together(config, MEMBERS, workdir)
    return workdir, jax.device_get(states), table


@pytest.fixture(scope="module")
def straight(config, folder):
    """A sweep of four steps, undisturbed."""
    return _straight(config, folder)


def _leaves(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)


def _metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_member_equals_the_run_that_it_is_alone(config, folder, straight):
    _, states, table = straight
    own = member_configs(config, MEMBERS)[1]
    alone, summary = train.train(own, folder / "alone")
    expected, found = dict(_leaves(alone)), dict(_leaves(states[1]))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert (found[path].shape, found[path].dtype) == (value.shape, value.dtype)
        # The codebook's sums are over many features of length about one.
        atol = 1e-4 if path == ".model_state['codebook'].sums" else 1e-5
        np.testing.assert_allclose(
            found[path], value, rtol=1e-5, atol=atol, err_msg=path
        )
    # What it reports is what the run alone reports, and a bound beside it.
    row = table["members"][1]
    for split in ("train", "validation"):
        for name, value in summary[split].items():
            if name in ("split", "step"):
                assert row[split][name] == value
            elif name not in ("windows_per_s", "waiting_share"):
                assert row[split][name] == pytest.approx(value, rel=1e-3, abs=1e-4)
    assert row["best_step"] == summary["best_step"]
    assert row["best_score"] == pytest.approx(summary["best_score"], abs=1e-5)
    # The first member is another run: nothing was shared that should not be.
    plain = dict(_leaves(states[0].params))
    apart = [np.abs(plain[k] - found[f".params{k}"]).max() for k in plain]
    assert np.median(apart) > 1e-3


def test_the_folder_of_a_member_is_that_of_a_run(config, straight):
    workdir, states, table = straight
    path = workdir / "members" / "changed"
    assert table["members"][1]["run"] == str(path)
    run = restore.open_run(path, "latest")
    assert run.step == 4
    assert run.config.seed == 3
    assert run.config.data.other_leads_s == (0.0,)
    frozen = restore.restore(run, sharding.one_device_mesh())
    expected = dict(_leaves(states[1].params["model"]))
    for path, value in _leaves(frozen.params):
        np.testing.assert_array_equal(value, expected[path])
    store = dataset.open_dataset(run.config)
    windows = dataset.make_windows(store, run.config)
    assert restore.confirm_training_windows(run, store, windows["train"])


def test_the_bound_is_log_n_less_the_loss(straight):
    _, _, table = straight
    windows, batch = table["windows"]["validation"], 8
    sizes = [min(batch, windows - start) for start in range(0, windows, batch)]
    log_n = sum(n * math.log(n) for n in sizes) / windows
    for row in table["members"][:2]:
        values = row["validation"]
        bound = log_n - values["loss/cross_cpc"] / 2
        assert values["cpc_bound"] == pytest.approx(bound, abs=1e-4)


def test_a_member_that_diverges_is_given_up_and_the_others_go_on(straight, capsys):
    workdir, _, table = straight
    plain, changed, lost = table["members"]
    assert plain["finished"]
    assert changed["finished"]
    assert not lost["finished"]
    assert "every train value must be finite; at step" in lost["diverged"]
    assert lost["best_step"] is None
    assert not list((workdir / "members/diverging/checkpoints").glob("[0-9]*"))
    print_members(table)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["member", *(m.name for m in MEMBERS)]
    assert lines[3].endswith("diverged")
    assert {"cpc_bound", "perplexity/current", "equal_share"} <= set(lines[0].split())


def test_the_table_is_written_and_a_finished_sweep_stays(config, straight, caplog):
    workdir, states, table = straight
    assert json.loads((workdir / "sweep.json").read_text()) == table
    before = _metrics(workdir / "members" / "plain")
    with caplog.at_level(logging.INFO):
        again, same = sweep.train_together(config, MEMBERS, workdir)
    assert "3 members resuming at step 4 of 4" in caplog.text
    assert same == table
    assert _metrics(workdir / "members" / "plain") == before
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), states)


def test_an_interrupted_sweep_goes_on_bit_for_bit(config, straight, tmp_path):
    asked = iter([False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop.Interruption, "requested", lambda self, agree_after: next(asked)
        )
        _, table = sweep.train_together(config, MEMBERS, tmp_path / "sweep")
    assert (table["step"], table["finished"]) == (2, False)
    states, table = sweep.train_together(config, MEMBERS, tmp_path / "sweep")
    assert (table["step"], table["finished"]) == (4, True)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(states), straight[1])
    for name in ("plain", "changed"):
        assert (
            _metrics(tmp_path / "sweep/members" / name)[-1]
            == _metrics(straight[0] / "members" / name)[-1]
        )


def test_the_folder_of_another_sweep_is_refused(config, straight):
    with pytest.raises(ValueError, match=r"differs in members\.other .*--workdir"):
        sweep.train_together(config, [*MEMBERS, Member("other", {})], straight[0])
    config = config.copy_and_resolve_references()
    config.codebook.codes = 20
    with pytest.raises(ValueError, match=r"differs in codebook\.codes"):
        sweep.train_together(config, MEMBERS, straight[0])


def test_labels_are_for_single_runs(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.labelled_validation = True
    with pytest.raises(ValueError, match="labelled_validation=True; set it to False"):
        sweep.train_together(config, MEMBERS, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_leads_share_one_video_and_have_currents_of_their_own(config):
    leads_s = (-2.0, 0.0, 4.0)
    configs = member_configs(
        config, [Member(f"{s:g}", {"data.lead_s": s}) for s in leads_s]
    )
    data = sweep_data.load_data(configs)
    for split, joined in data.windows.items():
        assert joined.ticks.samples["current"].shape[1] == 3 * 2
        windows = np.arange(min(4, len(joined)))
        batch = pipeline.assemble(data.run.store, joined, windows)
        for place, lead_s in enumerate(leads_s):
            own = data.by_lead[lead_s][split]
            alone = pipeline.assemble(data.run.store, own, windows)
            part = batch["streams"]["current"][:, :, 2 * place : 2 * place + 2]
            np.testing.assert_array_equal(part, alone["streams"]["current"])
            np.testing.assert_array_equal(
                batch["streams"]["video"], alone["streams"]["video"]
            )
            np.testing.assert_array_equal(batch["time_s"], alone["time_s"])


def test_windows_on_the_device_are_those_that_are_sent(config):
    asked = [
        Member("a", {"data.lead_s": -2.0}),
        Member("b", {"data.lead_s": 4.0, "seed": 1}),
    ]
    configs = member_configs(config, asked)
    data, mesh = sweep_data.load_data(configs), sharding.one_device_mesh()
    programs = VmappedRuns(
        configs,
        sweep_data.statistics(data, configs[0]),
        steps_per_epoch=data.run.steps_per_epoch,
        steps=data.run.planned_steps,
        mesh=mesh,
    )
    windows = resident.place(data.run.store, data.windows["train"], mesh)
    batches = [
        sweep_data.SweepBatches(data, configs[0], [0, 1], indices_only=numbers)
        for numbers in (False, True)
    ]
    sent, numbers = (sharding.place_batch(next(own), mesh) for own in batches)
    for own in batches:
        own.close()
    for place in range(2):
        own = {"lead": jnp.int32(place), "order": jnp.int32(place)}
        expected = programs._batch(own, sent, None)
        found = programs._batch(own, numbers, windows)
        jax.tree.map(np.testing.assert_array_equal, found, dict(expected))
