"""An alarm as ONNX: the same scores, by ONNX Runtime and NumPy and nothing of ours."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax.alarm import alarm_file, export, onnx_file, rule
from fmalign_jax.alarm.alarm_file import AlarmSettings
from fmalign_jax.alarm.taught import TaughtScore, figures
from fmalign_jax.config import load_file
from fmalign_jax.evaluation import heads
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.run.frozen_encoder import EncoderState, FrozenEncoder
from fmalign_jax.training import sharding

T, R, C, ROWS = 8, 2, 3, 16
DEVIATION = 3.0
TINY = load_file(pathlib.Path(__file__).parents[1] / "scripts" / "tiny_alarm.py")
SETTINGS = dataclasses.replace(
    TINY.SETTINGS,
    unit="kA",
    window_ticks=T,
    samples_per_tick=R,
    rows=ROWS,
    clear_at=0.45,
    clear_ticks=3,
    value_range=((-9.0, 9.0),) * C,
)
EXAMPLE = "docs/early_warning.md"
NOT_OURS = """
import sys
class Others:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"fmalign_jax", "jax", "jaxlib", "flax", "onnx"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Others())
"""


def _head(features):
    """Of random labels: it says something else of every window."""
    label = np.random.default_rng(1).integers(0, 2, len(features))
    spec = HeadSpec(l2=(1e-3,))
    return heads.fit(
        spec, features, label, classes=2, groups=np.arange(len(label)), seed=0
    )


def _model():
    """The score of a head on codes, of an encoder as a run starts with."""
    mesh = sharding.one_device_mesh()
    encoder = FrozenEncoder(tiny.tiny_config(), ("current",), mesh)
    statistics = {
        "current": {
            "mean": np.full(C, 0.5, np.float32),
            "std": np.full(C, DEVIATION, np.float32),
        }
    }
    streams = {"current": _windows()}
    params = encoder.fresh_params(jax.random.key(0), streams, statistics)
    semantic = encoder._semantic(params, statistics, streams)
    state = encoder.system.init_model_state(jax.random.key(1), dict(semantic))
    frozen = EncoderState(params, state, statistics)
    features = encoder.of_arrays(frozen, streams).features("current", "codes")
    mean, deviation = features.mean(axis=(0, 1)), features.std(axis=(0, 1)) + 1e-3
    head = _head((features - mean) / deviation)
    return export.score_of(
        encoder,
        frozen,
        "current",
        head.traced,
        mean=mean,
        deviation=deviation,
        features="codes",
        abnormal=1,
        shown=slice(-4, None),
    )


def _taught():
    found = np.asarray(figures(jnp.asarray(_windows() / DEVIATION)))
    mean, deviation = found.mean(axis=0), found.std(axis=0)
    head = _head(((found - mean) / deviation)[:, None])
    return TaughtScore(head, mean, deviation, "current", R, DEVIATION).score()


def _windows(number=64):
    rng = np.random.default_rng(0)
    loud = np.exp(rng.normal(size=(number, 1, 1, 1)))
    values = loud * DEVIATION * rng.normal(size=(number, T, R, C))
    return values.astype(np.float32)


def _edge_cases():
    """Constant windows, loud ones, and one phase that is dead."""
    some = _windows(4)
    dead = some.copy()
    dead[..., 1] = 0
    constant = np.ones((1, T, R, C), np.float32)
    parts = [value * constant for value in (0.0, 0.5, -7.3, 100.0)]
    return np.concatenate([*parts, 1e3 * some, 1e6 * some, dead])


@pytest.fixture(scope="module", params=["model", "taught"])
def both(request, tmp_path_factory):
    """The alarm as it always was, and a folder with the same as ONNX."""
    pytest.importorskip("jax2onnx", reason="pip install -e '.[onnx]'")
    folder = tmp_path_factory.mktemp(request.param)
    score = {"model": _model, "taught": _taught}[request.param]()
    program = export.serialised(score, (ROWS, *SETTINGS.window_shape))
    alarm_file.save(folder / "alarm.fmalign", SETTINGS, program)
    onnx_file.save(folder / "alarm.onnx", SETTINGS, score)
    return alarm_file.load(folder / "alarm.fmalign"), folder


def _elsewhere(script, folder):
    """Returns what a script prints where nothing of ours can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", NOT_OURS + script],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no warning at every start of a plant's program
    return done.stdout


def _scored(alarm, windows):
    parts = [alarm(windows[i : i + ROWS]) for i in range(0, len(windows), ROWS)]
    return (np.concatenate(part) for part in zip(*parts, strict=True))


@pytest.mark.slow
def test_it_scores_as_the_program_does(both):
    alarm, folder = both
    windows = np.concatenate([_windows(), _edge_cases()])
    np.save(folder / "windows.npy", windows)
    _elsewhere(
        """
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("alarm.onnx")
rows = [session.run(["score", "code"], {"windows": w[None]})
        for w in np.load("windows.npy")]
np.savez("found.npz", score=[s[0] for s, _ in rows], code=[c[0] for _, c in rows])
""",
        folder,
    )
    score, code = _scored(alarm, windows)
    with np.load(folder / "found.npz") as found:
        np.testing.assert_allclose(found["score"], score, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found["code"], code)
    assert np.ptp(score) > 0.2  # it is not one score for all
    assert np.isfinite(score).all()


@pytest.mark.slow
def test_its_metadata_are_the_settings(both):
    _, folder = both
    script = """
import json, onnxruntime
model = onnxruntime.InferenceSession("alarm.onnx").get_modelmeta()
print(json.dumps(model.custom_metadata_map))
"""
    about = json.loads(_elsewhere(script, folder))
    assert about["abnormal"] == "semi-molten"
    assert about["unit"] == "kA"
    assert json.loads(about["channels"]) == ["a", "b", "c"]
    text = {"unit", "abnormal", "until_visible_from"}
    values = {k: v if k in text else json.loads(v) for k, v in about.items()}
    for name in ("channels", "until_visible_s"):
        values[name] = tuple(values[name])
    values["value_range"] = tuple(map(tuple, values["value_range"]))
    assert AlarmSettings(**values) == SETTINGS


def example():
    """The example as it stands in the page."""
    page = pathlib.Path(__file__).resolve().parents[1] / EXAMPLE
    _, _, after = page.read_text(encoding="utf-8").partition("```python\n")
    return after.partition("```")[0]


@pytest.mark.slow
def test_the_example_of_the_page_runs_as_it_stands(both):
    alarm, folder = both
    samples = _windows(12).reshape(-1, C)
    np.savetxt(folder / "current.csv", samples, delimiter=",", fmt="%.9g")
    lines = _elsewhere(example(), folder).splitlines()
    ticks = samples.reshape(-1, R, C)
    ends = np.arange(T, len(ticks) + 1)
    windows = np.stack([ticks[end - T : end] for end in ends])
    score, code = _scored(alarm, windows)
    active = rule.follow(SETTINGS.rule, ends, score)
    assert active.any()
    assert not active.all()
    states = np.where(active, "ALARM", "normal").tolist()
    assert [line.split()[3] for line in lines] == states
    assert [float(line.split()[0]) for line in lines] == list(ends * SETTINGS.tick_s)
    found = [float(line.split()[1]) for line in lines]
    np.testing.assert_allclose(found, score, rtol=0, atol=1e-5)
    assert [int(line.split()[2]) for line in lines] == code.tolist()


def test_without_the_converter_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'fmalign_jax\[onnx\]'"):
        onnx_file.save(tmp_path / "alarm.onnx", SETTINGS, lambda windows: None)
    assert not list(tmp_path.iterdir())
