"""Every config file, and every variant in it, describes something that can be built."""

import functools
import inspect
import operator
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from fmalign_jax.config import build
from fmalign_jax.config.check import check_config
from fmalign_jax.config.commands import evaluation_config
from fmalign_jax.config.default import component, default_config, set_teacher
from fmalign_jax.config.overrides import load_file, override
from fmalign_jax.data import dataset
from fmalign_jax.data.windows import index
from fmalign_jax.evaluation import transfer
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.objectives.total import Objectives
from fmalign_jax.training import state

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def _variants(path):
    """Names between quotes in the refusal of an unknown variant."""
    get_config = load_file(path).get_config
    if not inspect.signature(get_config).parameters:
        return [None]
    with pytest.raises(ValueError, match="has the variants") as refusal:
        get_config("no such variant")
    named = re.search(r"has the variants (.*?); got", str(refusal.value))
    return named[1].split(", ")


FILES = sorted(FOLDER.glob("*.py"))
# By config file; the others are for training.
COMMANDS = {
    "evaluate": "evaluate",
    "early_warning": "early_warning",
    "lead_time": "lead_time",
    "sweep": "sweep",
}
TRAINING = [path for path in FILES if path.stem not in COMMANDS]
CASES = [(path, variant) for path in TRAINING for variant in _variants(path)]


def _config(path, variant):
    get_config = load_file(path).get_config
    return get_config() if variant is None else get_config(variant)


def test_there_are_configs():
    assert FILES


def test_variants_of_pre_training_may_be_joined():
    pretrain = FOLDER / "pretrain.py"
    own, leads, joined = (
        _config(pretrain, variant)
        for variant in ("recordings", "any_lead", "recordings+any_lead")
    )
    assert joined.data.source == own.data.source != leads.data.source
    assert joined.data.other_leads_s == leads.data.other_leads_s
    assert joined.data.draw_lead
    with pytest.raises(ValueError, match=r"got 'smoke\+x'; choose one of them, or"):
        _config(pretrain, "smoke+x")


@pytest.mark.parametrize("order", ["smoke+patches", "patches+smoke"])
def test_patches_have_no_convolution_behind_the_stem(order):
    config = _config(FOLDER / "pretrain.py", order)
    trainer = state.make_trainer(config, steps_per_epoch=10, steps=100)
    inputs = {
        "video": jnp.zeros((2, 12, 1, 64, 64, 3)),
        "current": jnp.zeros((2, 12, 4, 3)),
    }

    def init(key):
        features, variables = trainer.model.init_with_output(
            key,
            inputs,
            trainer.model.empty_model_state(),
            jnp.ones(2, bool),
            train=False,
        )
        terms = trainer.objectives.init(key, features, train=False)
        return variables["params"], terms["params"]["reconstruction"]

    encoders, decoders = jax.eval_shape(init, jax.random.key(0))
    kernels = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path([encoders, decoders])
        if "video" in str(path) and "kernel" in str(path) and "stem" not in str(path)
    }
    # A kernel with sides is a convolution's; that of one place is a product.
    sides = {shape[:2] for shape in kernels.values() if len(shape) == 4}
    assert sides == {(1, 1)}, kernels


@pytest.mark.parametrize(
    ("path", "variant"),
    CASES,
    ids=[f"{path.stem}-{variant}" for path, variant in CASES],
)
def test_every_variant_builds_what_it_describes(path, variant):
    config = _config(path, variant)
    check_config(config)
    trainer = state.make_trainer(config, steps_per_epoch=10, steps=100)
    modalities = set(config.model.modalities)
    assert set(config.data.samples_per_tick) == modalities
    assert set(config.augment) <= modalities
    assert {config.data.reference_stream, config.data.leading_stream} <= modalities
    assert isinstance(trainer.objectives, Objectives)
    for term in trainer.objectives.terms.values():
        build.load(term["name"])
    for parts in config.model.modalities.values():
        for part in filter(None, parts.values()):
            build.load(part.name)
    assert inspect.isclass(build.load(config.data.source))
    inspect.signature(build.load(config.data.source)).bind(
        config.data.path, **config.data.options
    )
    spec = dataset.window_spec(config.data, stride_ticks=config.data.stride_ticks)
    assert isinstance(spec, index.WindowSpec)
    model_state = trainer.model.empty_model_state()
    if not trainer.model.has_codes:
        assert not model_state
        return
    settings = config.codebook
    books = model_state.get("codebooks") or {"": model_state["codebook"]}
    for book in books.values():
        assert book.sums.shape == (settings.codes, config.model.width)
    assert set() < set(settings.ema_mix) <= modalities
    for row in settings.ema_mix.values():
        assert sum(row.values()) == pytest.approx(1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_file_tells_how_to_run_it(path):
    text = load_file(path).__doc__
    command = COMMANDS.get(path.stem, "train")
    assert f"python -m fmalign_jax.{command} " in text
    assert f"configs/{path.name}" in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_flag_that_a_config_file_shows_is_a_key_of_its_config(path):
    shown = re.findall(r"--config\.([\w.]+)=", load_file(path).__doc__)
    assert shown or path.stem not in COMMANDS
    for variant in _variants(path):
        config = _config(path, variant)
        for key in shown:
            *parts, last = key.split(".")
            assert last in functools.reduce(operator.getitem, parts, config), key


def test_windows_are_long_enough_for_the_steps_predicted():
    for path, variant in CASES:
        config = _config(path, variant)
        if "cross_cpc" in config.objectives and config.objectives.cross_cpc.weight:
            steps = config.objectives.cross_cpc.steps
            assert config.data.window_ticks >= steps + 2, (path, variant)


def test_the_search_for_the_lead_shows_what_it_rests_on():
    config = _config(FOLDER / "lead_time.py", None)
    assert {config.indicator, config.evidence} <= set(config.indicators)
    assert config.evidence in config.chance_of
    assert set(config.chance_of) <= set(config.indicators)
    assert config.least_lead_s < config.most_lead_s


def test_the_evaluation_config_describes_a_head():
    config = _config(FOLDER / "evaluate.py", None)
    assert config.head.l2 == ()  # that of the kind of features
    given = config.head.to_dict() | {"l2": (transfer.L2["codes"],)}
    assert HeadSpec(**given) == HeadSpec()  # as docstrings promise
    config.checkpoint = "RUN"
    transfer.check(config)


def test_the_early_warning_config_adds_to_that_of_an_evaluation():
    config = _config(FOLDER / "early_warning.py", None)
    evaluation = evaluation_config()
    assert set(evaluation) - set(config) == {
        "channels",
        "classifiers",
        "few_shot",
        "localisation",
        "open_set",
        "random_encoders",
        "retrieval",
    }
    for key in set(evaluation) & set(config):
        assert config[key] == evaluation[key], key


def test_the_default_is_json_and_fresh_each_time():
    first, second = default_config(), default_config()
    first.objectives.cross_cpc.learns_from.video.current = 0.9
    assert second.to_json() == default_config().to_json()
    assert second.objectives.code_matching.learns_from.video.current == 0.2


def test_a_component_is_a_name_and_its_options():
    entry = component("pkg.Class", width=3)
    assert isinstance(entry, ConfigDict)
    assert entry.to_dict() == {"name": "pkg.Class", "width": 3}


def test_by_default_the_current_learns_from_the_video_more_than_the_other_way():
    config = default_config()
    terms = config.objectives
    tables = {
        "ema_mix": config.codebook.ema_mix,
        "beta": terms.commitment.weights,
        **{
            name: terms[name].learns_from
            for name in ("code_matching", "cross_cpc", "window_contrast")
        },
    }
    for name, table in tables.items():
        assert table.current.video > table.video.current, name


def _taught(**shares):
    config = default_config()
    set_teacher(config, teacher="current", student="video", **shares)
    return config, config.objectives.to_dict()


def test_who_teaches_is_written_into_every_table():
    config, terms = _taught(back=0.2, pull=0.9)
    gradients = {"video": {"current": 1.0}, "current": {"video": 0.2}}
    for name in ("code_matching", "cross_cpc", "window_contrast"):
        assert terms[name]["learns_from"] == gradients, name
    assert terms["commitment"]["weights"] == {
        "video": {"video": 0.25, "current": 0.9},
        "current": {"current": 0.25},
    }
    assert terms["code_prediction"]["weights"] == {"video": {"current": 1.0}}
    assert terms["code_prediction"]["weight"] == 0.5
    assert terms["self_contrast"]["second_views"] == ("current",)
    assert terms["self_contrast"]["weight"] == 1.0
    contrast = terms["window_contrast"]
    assert (contrast["stronger"], contrast["weaker"]) == ("current", "video")
    assert config.codebook.ema_mix.to_dict() == {"current": {"current": 1.0}}


def test_a_teacher_learns_nothing_back_unless_told_to():
    _, terms = _taught()
    assert terms["cross_cpc"]["learns_from"]["current"] == {"video": 0.0}
    assert terms["commitment"]["weights"]["video"] == {"video": 0.25, "current": 0.25}


def test_by_default_the_current_keeps_its_level_and_amplitude():
    assert not build.load("fmalign_jax.models.encoders.SensorStem").phase_layer_norm
    for path, variant in CASES:
        stem = _config(path, variant).model.modalities.current.stem
        assert not stem.get("phase_layer_norm", False), (path, variant)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"featurs": "codes"}, "got featurs; try features"),
        ({"head.knid": "linear"}, "got head.knid; try head.kind"),
        ({"head": {"kind": "linear", "stps": 3}}, "got head.stps; try head.steps"),
        ({"zzz": 3}, "got zzz; print the config to see all"),
        ({"head": 3}, "got head=3: "),
        ({"seed": "many"}, "got seed='many': Could not"),
    ],
)
def test_a_setting_that_is_refused_is_named_with_the_nearest(settings, told):
    with pytest.raises(ValueError, match="settings must be those of") as raised:
        override(evaluation_config(), settings)
    assert told in str(raised.value)
    assert "bootstrap_draws" not in str(raised.value)  # not the whole config
