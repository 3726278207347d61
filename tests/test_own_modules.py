"""Modules beside a config of the user's own: found last, and to train."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

import fmalign_jax
from fmalign_jax import __main__ as word
from fmalign_jax.config import import_beside, shipped_configs

CONSOLE = "import sys\nfrom fmalign_jax.__main__ import main\nsys.exit(main())\n"
"""What pip installs as `fmalign`: its own folder is on the path, the current is not."""

CONFIG = """
from parts import RECORDINGS  # while the file is read

from fmalign_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = "parts.Mine"  # when it is built
    config.data.path = RECORDINGS
    return config
"""

PARTS = """
RECORDINGS = "recordings/*.npz"


class Mine:
    def __init__(self, path):
        raise ValueError(f"found beside the config, and given {path}")
"""


@pytest.fixture
def place(tmp_path):
    """A folder with a config, the module that it names, and one of a package's name."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "mine.py").write_text(CONFIG)
    (place / "parts.py").write_text(PARTS)
    (place / "optax.py").write_text("raise ValueError('not the installed one')\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fmalign").write_text(CONSOLE)
    return place


def _said(start, place, *words):
    done = subprocess.run(
        [sys.executable, *map(str, start), *words],
        cwd=place,
        env=os.environ
        | {"PYTHONPATH": str(pathlib.Path(fmalign_jax.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    return done.stderr


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_word_finds_what_the_config_names(place, command):
    config, more = "mine.py", ()
    if command == "sweep":
        config, more = "swept.py", ("--vary.seed=(0, 1)",)
        (place / config).write_text(
            f"{CONFIG.replace('get_config', 'run_config')}\n"
            "from fmalign_jax.config import sweep_config\n"
            "def get_config():\n    return sweep_config(run_config())\n"
        )
    said = _said([place.parent / "bin" / "fmalign"], place, command, config, *more)
    assert "error: found beside the config, and given recordings/*.npz" in said


def test_a_module_finds_it_from_any_folder(place):
    start = ("-m", "fmalign_jax.train", "--config")
    said = _said(start, place.parent, "place/mine.py")
    assert "error: found beside the config" in said


def test_without_the_folder_it_would_not_be_found(place):
    lost = place.parent / "lost.py"
    (place / "mine.py").rename(lost)
    said = _said([place.parent / "bin" / "fmalign"], place, "train", str(lost))
    assert "error: a config file must run; got No module named 'parts'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "searched"),
    [
        (("train", "CONFIG"), True),
        (("train", "--config", "CONFIG"), True),
        (("prepare", "CONFIG"), True),
        (("sweep", "CONFIG"), True),
        (("evaluate", "RUN", "--config", "CONFIG"), False),
        (("lead", "RUN", "--config=CONFIG"), False),
        (("report", "RUN"), False),
        (("train", "pretrain:smoke"), False),
    ],
)
def test_no_folder_of_a_run_is_searched(words, searched, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    config = run / "config_of_a_stranger.py"
    config.write_text("from fmalign_jax.config import default_config as get_config\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["fmalign"])
    monkeypatch.setattr(runpy, "run_module", lambda *_, **__: None)
    word.main(
        [w.replace("CONFIG", str(config)).replace("RUN", str(run)) for w in words]
    )
    assert (str(run) in sys.path) == searched


def test_the_folder_comes_last_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["installed"])
    for _ in range(2):
        import_beside(f"{tmp_path}/mine.py:variant")
    assert sys.path == ["installed", str(tmp_path)]
    import_beside(f"{shipped_configs()['pretrain']}:smoke")
    assert sys.path == ["installed", str(tmp_path)]
