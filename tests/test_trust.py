"""A run folder that somebody sent is data: its config runs no code of others."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from fmalign_jax.config import default_config
from fmalign_jax.config.overrides import load_file
from fmalign_jax.config.saved import to_json
from fmalign_jax.run import trust
from fmalign_jax.run.restore import open_run

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"

VICTIMS = [
    "data.source",
    "model.name",
    "model.modalities.video.stem.name",
    "model.modalities.current.specific.name",
    "objectives.cross_cpc.name",
    "objectives.reconstruction.decoders.video.name",
]
HOSTILE = [
    "os.system",
    "subprocess.Popen",
    "builtins.exec",
    "fmalign_jax_evil.Thing",  # begins like ours
    "fmalign_jax.data.files.pathlib.Path",  # reached through ours
    "fmalign_jax.run.restore.pathlib",  # not a class
    "fmalign_jax.train.train",  # ours, and not what belongs there
    "fmalign_jax.config.build.load",
    "fmalign_jax.run.restore.ConfigDict",  # a class of another package
    "",
    None,
    7,
    ["os.system"],
]


def _with(key, value):
    settings = to_json(default_config())
    *path, last = key.split(".")
    part = settings
    for name in path:
        part = part[name]
    part[last] = value
    return settings


@pytest.mark.parametrize("key", VICTIMS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_config_may_not_name_what_would_be_run(key, name):
    with pytest.raises(ValueError, match=r"must name|module must be importable"):
        trust.check_names(_with(key, name), "config.json")


def test_nothing_is_imported_before_it_is_refused(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('the trap was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"model\.name must name .*'trap.Thing'"):
        trust.check_names(_with("model.name", "trap.Thing"), "config.json")


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_trusted_packages_may_be_named(how, monkeypatch):
    settings = _with("model.name", "plant.models.Thing")
    trusted = ()
    if how == "argument":
        trusted = ("other", "plant.models")
    else:
        monkeypatch.setenv(trust.TRUST_CODE, "other, plant")
    trust.check_names(settings, "config.json", trust_code=trusted)
    with pytest.raises(ValueError, match="must name"):
        trust.check_names(
            _with("model.name", "plantation.Thing"), "config.json", trust_code=trusted
        )


def test_every_shipped_config_names_its_own_code():
    found = 0
    for path, variants in (
        (
            "pretrain.py",
            (
                *("default", "smoke", "any_lead", "two_sided", "patches"),
                *("recordings", "full", "fmf"),
            ),
        ),
        ("recordings.py", ("sliding", "clips")),
        ("cmg_paper.py", ("paper", "tuned", "smoke")),
        ("systems.py", ("clip",)),
    ):
        for variant in variants:
            config: ConfigDict = load_file(CONFIGS / path).get_config(variant)
            trust.check_names(to_json(config), path)
            found += 1
    assert found == 14


def test_a_run_that_was_sent_runs_nothing(tmp_path):
    run = tmp_path / "received"
    (run / "checkpoints").mkdir(parents=True)
    marker = tmp_path / "executed"
    settings = _with("data.source", "os.system")
    settings["data"]["path"] = f"touch {marker}"
    (run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"data\.source must name .*--trust_code="):
        open_run(run)
    assert not marker.exists()
