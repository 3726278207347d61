"""The one word for all commands: what it finds, what it passes on, what it says."""

import pathlib
import runpy
import subprocess
import sys
import tomllib

import pytest

from fmalign_jax import __main__ as word

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def passed_on(monkeypatch):
    """Runs `fmalign` and returns the module that it starts, and its arguments."""

    def call(*words):
        started = []
        monkeypatch.setattr(
            runpy,
            "run_module",
            lambda module, run_name: started.append((module, sys.argv[1:])),
        )
        monkeypatch.setattr(sys, "argv", ["fmalign"])
        word.main(words)
        (found,) = started
        return found

    return call


def _refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        word.main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_shipped_config_is_found_by_its_name(passed_on, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, given = passed_on("train", "pretrain:smoke")
    assert module == "fmalign_jax.train"
    assert given == ["--config", f"{ROOT / 'configs' / 'pretrain.py'}:smoke"]
    assert passed_on("train")[1] == [given[0], given[1].removesuffix(":smoke")]


def test_a_file_comes_before_a_name(passed_on, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain.py").write_text(
        (ROOT / "configs" / "evaluate.py").read_text()
    )
    assert passed_on("train", "pretrain.py")[1] == ["--config", "pretrain.py"]


def test_settings_need_no_prefix_and_flags_stay(passed_on):
    _, given = passed_on(
        *("train", "pretrain:smoke", "--epochs=2", "--data.path", "x y", "--seed", "3"),
        *("--workdir", "runs/a", "--show_config", "--config.batch_size=8"),
    )
    assert given[2:] == [
        *("--config.epochs=2", "--config.data.path=x y", "--config.seed=3"),
        *("--workdir=runs/a", "--show_config", "--config.batch_size=8"),
    ]


@pytest.mark.parametrize("name", ["evaluate", "lead", "warn"])
def test_a_run_is_an_argument_of_its_own(passed_on, name):
    command = word.COMMANDS[name]
    module, given = passed_on(name, "runs/a", "--seed=1")
    assert module == f"fmalign_jax.{command.module}"
    assert given == [
        *("--config", str(ROOT / "configs" / f"{command.config}.py")),
        *("--config.checkpoint=runs/a", "--config.seed=1"),
    ]


def test_another_config_for_a_run(passed_on):
    _, given = passed_on("evaluate", "runs/a", "--config", "evaluate")
    assert given[0] == "--config"
    assert given[1].endswith("evaluate.py")
    assert given[2:] == ["--config.checkpoint=runs/a"]


def test_arguments_of_commands_without_a_config_are_passed_on(passed_on):
    given = ["--alarm", "a", "--input", "-", "--follow"]
    assert passed_on("monitor", *given) == ("fmalign_jax.monitor", given)
    assert passed_on("report", "runs/a") == ("fmalign_jax.report", ["runs/a"])
    given = ["mydata/", "--out", "mine.py"]
    assert passed_on("init", *given) == ("fmalign_jax.init", given)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fly",), "a command must be one of init, check, prepare"),
        (
            ("train", "nothing"),
            "a config must be a file or one of cmg_paper, pretrain, recordings, "
            "systems; got 'nothing'; correct the name",
        ),
        (
            ("train", "mine.py:smoke"),
            "systems; got 'mine.py', and there is no such file; correct the path",
        ),
        (("evaluate", "runs/a", "--config=mine"), "a file or evaluate; got 'mine'"),
        (("train", "pretrain:nothing"), "has the variants"),
        (
            ("train", "pretrain", "sweep"),
            "takes a config and flags; got pretrain sweep",
        ),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(capsys, words, told):
    error = _refused(capsys, *words)
    assert told in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_overview_names_every_command(capsys):
    word.main([])
    told = capsys.readouterr().out
    for name in word.COMMANDS:
        assert f"\n  {name} " in told


@pytest.mark.parametrize("name", word.COMMANDS)
def test_help_says_all_and_imports_little(name):
    code = (
        "import sys\n"
        "from fmalign_jax.__main__ import main\n"
        "main([sys.argv[1], '--help'])\n"
        "heavy = {'jax', 'flax', 'tensorflow_datasets', 'matplotlib', 'plotly'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"  fmalign {name} ") == 2  # the examples
    if word.COMMANDS[name].config is not None:
        assert "--workdir" in done.stdout
        assert "--show_config" in done.stdout
    settings = {
        "train": "  --optimizer.learning_rate=0.001",
        "evaluate": "  --bootstrap_draws=1000",
        "lead": "  --most_lead_s=420.0",
        "warn": "  --false_alarms_per_hour=0.25",
        "monitor": "--no_data_after S",
        "report": "--evaluation DIR",
        "init": "--out FILE",
        "check": "--least_lead_s S",
    }
    assert settings.get(name, "") in done.stdout


def test_help_shows_the_values_of_the_config_that_is_given(capsys):
    word.main(["train", "pretrain:smoke", "--help"])
    small = capsys.readouterr().out
    word.main(["train", "--help"])
    assert small != capsys.readouterr().out


def test_a_command_really_starts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fmalign_jax", "train", "--show_config", "--seed=7"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "seed" in done.stdout
    assert "7" in next(x for x in done.stdout.splitlines() if " seed " in x)


def test_the_wheel_is_told_to_carry_the_configs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    target = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert target["force-include"]["configs"] == "fmalign_jax/configs"
    assert project["project"]["scripts"]["fmalign"] == "fmalign_jax.__main__:main"
