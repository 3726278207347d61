"""The control in which the current sees the video: what is measured of it."""

import importlib
import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax import train
from fmalign_jax.config import load_file
from fmalign_jax.run import restore
from fmalign_jax.systems.system import make_system

ROOT = pathlib.Path(__file__).parents[1]
CONTROLS = load_file(ROOT / "configs" / "systems.py").CONTROLS


@pytest.fixture(scope="module")
def control():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("fusion_control")


def test_a_donor_is_of_another_recording_and_label(control):
    rng = np.random.default_rng(0)
    label, recording = rng.integers(0, 2, (2, 60))
    found = control.donors(label, recording, seed=0)
    assert (label[found] != label).all()
    assert (recording[found] != recording).all()
    assert len(set(found.tolist())) > 15  # drawn, not the first
    np.testing.assert_array_equal(control.donors(label, recording, seed=0), found)
    alone = control.donors(np.array([0, 1, 0]), np.array([0, 0, 1]), seed=0)
    np.testing.assert_array_equal(alone, [-1, 2, 1])


def test_without_a_video_the_attention_is_nothing():
    """Only the norm is left of the fusion, on what the unfused system gives."""
    config = tiny.tiny_config()
    CONTROLS["fused_control"](config)
    system = make_system(config)
    _, _, state = tiny.first_state(config)
    inputs = {"current": jnp.asarray(tiny.random_batch(config)["streams"]["current"])}
    params = state.params["model"]
    found = system.apply({"params": params}, inputs, train=False, method="semantic")
    del config.model["name"]
    plain = make_system(config).apply(
        {"params": params}, inputs, train=False, method="semantic"
    )
    z = plain["current"]
    mean, deviation = z.mean(-1, keepdims=True), z.std(-1, keepdims=True)
    norm = params["fusion_norm"]
    expected = (z - mean) / deviation * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found["current"], expected, atol=1e-4)


def test_the_log_is_compared_after_the_warm_up(control, tmp_path):
    for name, accuracy in (("fused", 0.9), ("unfused", 0.1)):
        rows = [
            {
                "step": step,
                "split": "train",
                control.CPC_ACCURACY: accuracy + step / 1e3,
                control.CPC_LOSS: 1 - accuracy if step > 10 else 0.0,
            }
            for step in (10, 20, 30)
        ]
        rows.append({"step": 30, "split": "validation", "equal_share": accuracy})
        (tmp_path / name).mkdir()
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / name / "metrics.jsonl").write_text(text)
    found = control.logged(tmp_path / "fused", tmp_path / "unfused", warmup=10)
    assert found["steps"] == 2
    assert found["higher_accuracy"] == found["lower_loss"] == 1.0
    assert found["last"]["equal_share"] == [0.9, 0.1]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_control_is_trained_and_measured(control, tmp_path, monkeypatch, capsys):
    config = tiny.tiny_config(tmp_path)
    config.data.split.validation_recordings = ("furnace_1", "furnace_2")
    config.update_from_flattened_dict(tiny.LIGHT)
    config.batch_size = 4
    train.train(config, tmp_path / "recipe")
    out = tmp_path / "control.json"
    argv = ["control", str(tmp_path / "recipe"), "--fused", str(tmp_path / "fused")]
    monkeypatch.setattr(sys, "argv", [*argv, "--out", str(out)])
    monkeypatch.setattr(control, "keep_compiled_programs", lambda: None)
    control.main()
    assert control.CONCLUSION in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["recordings"] == 2
    for kind in report["scores"].values():
        assert set(kind) == set(control.ROWS)
        assert kind["own"]["accuracy"] == pytest.approx(1 - kind["donor"]["accuracy"])
    assert "fusion" not in str(restore.open_run(tmp_path / "recipe").config)

    run = restore.open_run(tmp_path / "fused", "latest")
    judged = control.Judged.of(run, 0)
    encoder = control.Encoder(run)
    own = np.arange(len(judged.test))
    beside = encoder(judged.test, own).semantic["current"]
    alone = encoder(judged.test, None)
    assert set(alone.codes) == {"current"}
    assert np.abs(beside - alone.semantic["current"]).max() > 1e-3
    # What is restored is what encodes: a donor that is the own video changes nothing.
    swapped = encoder(judged.test, judged.donor).semantic["current"]
    assert np.abs(beside - swapped).max() > 1e-3
    frozen = run.encoder(["current"])(judged.test.store, judged.test.windows)
    np.testing.assert_allclose(
        alone.semantic["current"], frozen.semantic["current"], atol=1e-5
    )
