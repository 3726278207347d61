"""Commands as a user meets them: what works, and one clean line when it does not."""

import dataclasses
import io
import logging
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import absl.logging
import jax
import pytest
import tiny
from absl import app, flags

from fmalign_jax import cli, prepare
from fmalign_jax.config import default_config

ROOT = pathlib.Path(__file__).parents[1]
TINY = str(pathlib.Path(tiny.__file__))

# ml_collections loads config files so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


@dataclasses.dataclass
class Outcome:
    code: int
    error: str
    configs: list
    output: str


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs a command in this process, but ends as a process would."""
    # What a command sets for its own process must not reach the other tests.
    for name in ("keep_compiled_programs", "order_collectives"):
        monkeypatch.setattr(cli, name, lambda: None)
    loggers = [
        logging.getLogger(name)
        for name in (None, "absl", "jax", "orbax", "jax._src.xla_bridge")
    ]
    levels = [logger.level for logger in loggers]
    monkeypatch.setattr(app, "usage", lambda *_, **__: None)

    def call(*arguments, main=None, program="command"):
        configs = []

        def read(config):
            config.to_json()
            configs.append(config)

        monkeypatch.setattr(sys, "argv", [program, *arguments])
        cli.define_flags()
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)  # an override of the call before
        for name in (
            *("config", "workdir", "show_config"),
            *("coordinator", "processes", "process", "wait_s"),
        ):
            flags.FLAGS[name].unparse()
        with pytest.raises(SystemExit) as ended:
            cli.run(main or read, default_config)
        printed = capsys.readouterr()
        return Outcome(ended.value.code or 0, printed.err, configs, printed.out)

    yield call
    flags.FLAGS.unparse_flags()
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_virtual_devices_meet_in_one_order(call, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "order_collectives", lambda: seen.append(True))
    assert call("--config", f"{TINY}:{tmp_path}").code == 0
    assert seen == [True]  # the tests have eight of them


def test_the_order_is_asked_for_beside_other_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--one")
    cli.order_collectives()
    assert os.environ["XLA_FLAGS"].split() == [
        "--one",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    ]


def _one_clean_line(outcome, *parts):
    assert outcome.code == 2
    lines = outcome.error.strip().splitlines()
    assert len(lines) == 1, outcome.error
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_a_command_gets_its_config_with_overrides(call, tmp_path):
    outcome = call("--config", f"{TINY}:{tmp_path}", "--config.data.lead_s=3")
    assert (outcome.code, outcome.error) == (0, "")
    assert outcome.configs[0].data.lead_s == 3.0


def test_a_mistyped_override_is_refused(call, tmp_path):
    outcome = call("--config", f"{TINY}:{tmp_path}", "--config.data.laed_s=3")
    _one_clean_line(outcome, "laed_s")
    assert not outcome.configs


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (
            "--config.codebok.codes=400",
            "a flag must be a setting, or one of the command's own; got "
            "--config.codebok.codes; did you mean --config.codebook.codes? "
            "--show_config in its place lists all",
        ),
        ("--config.data.laed_s=3", "did you mean --config.data.lead_s?"),
        ("--steps=4", "got --steps; did you mean --config.max_steps? --show"),
        ("--lead_s=4", "got --lead_s; did you mean --config.data.lead_s? --show"),
        ("--wrokdir=here", "got --wrokdir; did you mean --workdir? --show"),
        ("--zzz", "got --zzz; --show_config in its place lists all"),
        (
            "--config.data.lead_s=abc",
            "a flag needs a value of its own type; got --config.data.lead_s=abc: could "
            "not convert string to float: 'abc'; give one such as "
            "--config.data.lead_s=0.0",
        ),
        ("--config.codebook=3", "not a dict; give one such as --config.codebook.codes"),
        ("--config.data.tick_s", "got --config.data.tick_s; give one such as --config"),
        ("--processes=x", "base 10: 'x'; give one such as --processes=1"),
    ],
)
def test_a_flag_that_is_refused_says_what_is_meant(call, tmp_path, flag, told):
    _one_clean_line(call("--config", f"{TINY}:{tmp_path}", flag), told)


def test_a_flag_is_told_as_it_was_typed_after_the_one_word(call, tmp_path):
    """`fmalign train` puts the prefix before settings itself."""
    config = ("--config", f"{TINY}:{tmp_path}")
    for flag, told in (
        ("--codebok.codes=9", "got --codebok.codes; did you mean --codebook.codes? "),
        ("--config.data.laed_s=9", "got --data.laed_s; did you mean --data.lead_s? "),
        ("--config.data.lead_s=a", "got --data.lead_s=a: could not convert"),
    ):
        outcome = call(*config, flag, program="fmalign train")
        _one_clean_line(outcome, told)
        assert ("--help in its place lists all" in outcome.error) == ("=9" in flag)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return 'x'.y", "AttributeError: .* no attribute 'y' "),
        ("x = {}['a']\ndef get_config(): ...", "KeyError: 'a' in .*, line 1"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere' in "),
        ("def get_config(:", r"SyntaxError: invalid syntax in .*own\.py, line 1"),
        ("def get_config():\n    return yy", "NameError: .* in .*, line 2; correct"),
        ("def get_config():\n    return 3", "must return a ConfigDict; got int"),
    ],
)
def test_a_config_file_that_does_not_run_says_where(text, message, call, tmp_path):
    (tmp_path / "own.py").write_text(text)
    outcome = call("--config", str(tmp_path / "own.py"))
    _one_clean_line(outcome)
    assert re.search(message, outcome.error)


def test_an_override_of_the_wrong_type_is_refused(call, tmp_path):
    outcome = call("--config", f"{TINY}:{tmp_path}", "--config.batch_size=many")
    _one_clean_line(outcome, "batch_size")


def test_a_command_without_config_says_what_to_add(call):
    _one_clean_line(call(), "--config configs/pretrain.py")


def test_a_config_file_that_is_not_there_is_named(call):
    _one_clean_line(call("--config", "configs/nowhere.py"), "nowhere.py")


def test_an_unknown_flag_is_refused(call, tmp_path):
    outcome = call("--config", f"{TINY}:{tmp_path}", "--wrokdir=here")
    _one_clean_line(outcome, "wrokdir")


def test_an_unknown_variant_names_the_known_ones(call):
    path = ROOT / "configs" / "pretrain.py"
    outcome = call("--config", f"{path}:nonsense")
    _one_clean_line(outcome, "smoke", "'nonsense'")


def test_missing_data_are_named(call, tmp_path):
    missing = tmp_path / "nothing" / "*.npz"
    outcome = call(
        "--config",
        f"{TINY}:{tmp_path}",
        f"--config.data.path={missing}",
        main=prepare.main,
    )
    _one_clean_line(outcome, str(missing))


def test_an_error_keeps_its_quotes_and_backslashes(call, tmp_path):
    message = "'C:\\new': must be 'a'; got 'b'"

    def refuse(config):
        raise ValueError(message)

    outcome = call("--config", f"{TINY}:{tmp_path}", main=refuse)
    assert outcome.error == f"error: {message}\n"


def test_show_config_marks_what_differs_and_does_nothing_else(call, capsys, tmp_path):
    shown = []
    flags_given = ("--config", f"{TINY}:{tmp_path}", "--config.seed=7", "--show_config")
    outcome = call(*flags_given, main=lambda config: shown.append("ran"))
    assert outcome.code == 0
    assert not shown
    lines = outcome.output.splitlines()
    rows = {line.lstrip(" *").split("  ")[0]: line for line in lines}
    assert rows["seed"].split() == ["*", "seed", "7", "default", "0"]
    assert rows["epochs"].split() == ["epochs", "10.0"]
    assert rows["augment.video.crop"].lstrip().startswith("*")
    differing = sum(line.lstrip().startswith("*") for line in lines)
    assert lines[-1] == f"{differing} of {len(lines) - 1} settings differ (*)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        ("localhost", "must be HOST:PORT of process 0; got 'localhost'"),
        ("localhost:x", "must be HOST:PORT"),
        ("127.0.0.1:9", "process 0 must answer at 127.0.0.1:9 within 1 s; got "),
    ],
)
def test_a_coordinator_that_is_not_there_is_named(call, tmp_path, coordinator, message):
    outcome = call(
        f"--config={TINY}:{tmp_path}",
        f"--coordinator={coordinator}",
        "--processes=2",
        "--process=1",
        "--wait_s=1",
    )
    _one_clean_line(outcome, message)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(28, "No space left on device"), ("no space is left", "make room")),
        (
            RuntimeError("write() failed: No space left on device;\nat byte 19"),
            ("no space is left on the disk: write() failed", "make room"),
        ),
        (MemoryError(), ("not enough memory", "smaller batch_size")),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
            ("not enough memory", "8 bytes"),
        ),
    ],
)
def test_a_full_disk_and_memory_are_said_in_one_line(call, tmp_path, error, parts):
    def fails(config):
        raise error

    _one_clean_line(call(f"--config={TINY}:{tmp_path}", main=fails), *parts)


def test_a_line_of_the_log_says_when_and_what(call, tmp_path, monkeypatch):
    log = io.StringIO()
    handler = absl.logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "stream", log)

    def says(config):
        logging.info("devices: %d x %s", 1, "cpu")
        logging.warning("a gap of %d s", 9)
        logging.getLogger("orbax").info("unasked")

    call(f"--config={TINY}:{tmp_path}", main=says)
    told, warned = log.getvalue().splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(f"{when} devices: 1 x cpu", told)
    assert re.fullmatch(f"{when} warning: a gap of 9 s", warned)


def test_ctrl_c_ends_in_one_line(call, tmp_path):
    """As while a program compiles; in the loop of training a run is saved first."""

    def is_stopped(config):
        raise KeyboardInterrupt

    outcome = call(f"--config={TINY}:{tmp_path}", main=is_stopped)
    assert outcome.code == 130
    assert outcome.error == (
        "interrupted: what is saved stays; the same command goes on\n"
    )


def test_a_command_without_config_logs_without_a_word_of_absl(tmp_path):
    """absl warns at the first line where its own flags were not parsed."""
    said = subprocess.run(
        [sys.executable, "-c", _LOGS], capture_output=True, text=True, check=True
    ).stderr
    assert re.fullmatch(r"\S+ \S+ 5.3 MB\n", said)


_LOGS = """
import logging, sys
from fmalign_jax import cli
sys.argv = ["x"]
cli.Arguments().run(lambda arguments: logging.info("5.3 MB"))
"""


def test_a_user_without_a_home_is_served(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(pathlib.Path, "expanduser", homeless)
    try:
        cli.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == before
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


_COMPILES = """
import jax, jax.numpy as jnp
from fmalign_jax import cli
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
cli.keep_compiled_programs()
assert "autotune" in jax.config.jax_persistent_cache_enable_xla_caches
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: jnp.sin(x) + 1, inline=False)(1.0))
"""


def test_a_damaged_compiled_program_is_removed_and_made_again(tmp_path):
    def compiled():
        return subprocess.run(
            [sys.executable, "-c", _COMPILES],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )

    first = compiled()
    (entry,) = (tmp_path / "fmalign_jax" / "jax").glob("jit__lambda*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    again = compiled()
    assert again.stdout == first.stdout
    assert "is damaged; it is removed and compiled again" in again.stderr
    assert "Warning" not in again.stderr
    assert len(entry.read_bytes()) > len(whole) // 2
    assert compiled().stderr == ""


def test_a_surprise_leaves_its_traceback_in_a_file(call, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fails(config):
        raise KeyError("secret")

    outcome = call(f"--config={TINY}:{tmp_path}", main=fails)
    _one_clean_line(outcome, "KeyError: 'secret'", "please report it")
    (file,) = tmp_path.glob("fmalign_jax-*.txt")
    assert str(file) in outcome.error
    assert "in fails" in file.read_text()


def test_a_backend_of_a_notebook_that_is_not_installed_is_dropped(monkeypatch):
    """matplotlib does not import with one."""
    for given, kept in (
        ("module://no_such_package.backend", False),
        ("module://json.backend", True),
        ("agg", True),
        ("", True),
    ):
        monkeypatch.setenv("MPLBACKEND", given)
        cli._forget_missing_backend()
        assert ("MPLBACKEND" in os.environ) == kept, given


def test_a_gpu_that_cannot_be_used_is_said(call, tmp_path):
    call(f"--config={TINY}:{tmp_path}")
    levels = {
        name: logging.getLogger(name).getEffectiveLevel()
        for name in ("jax._src.xla_bridge", "jax._src.compiler")
    }
    assert levels == {
        "jax._src.xla_bridge": logging.WARNING,
        "jax._src.compiler": logging.ERROR,
    }


def test_the_prepare_command_prepares_and_counts_windows(tmp_path):
    command_line = [sys.executable, "-m", "fmalign_jax.prepare"]
    ended = subprocess.run(
        [*command_line, "--config", f"{TINY}:{tmp_path}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "train: " in ended.stderr
    assert list((tmp_path / "prepared").iterdir())
