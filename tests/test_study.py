"""Studies: their configs hold together, what is done is kept, tables tell the means."""

import json
import pathlib
import sys
from fnmatch import fnmatch

import matplotlib.pyplot as plt
import pytest

from fmalign_jax.config import evaluation_config
from fmalign_jax.config.check import check_config
from fmalign_jax.config.overrides import load_file
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.training.state import make_trainer

ROOT = pathlib.Path(__file__).parents[1]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.py"))
DIRECTIONS = ("video->current", "current->video", "video->video", "current->current")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_is_a_config_that_can_be_built(path, tmp_path):
    study = load_file(path)
    if path.stem == "systems_across":  # simulates what it is tested on
        study.TESTED |= {"recordings": 1, "duration_s": 30.0}
    plain = study.train_config(next(iter(study.FOLDS)), "folder")
    seen = {}
    for name, change in study.VARIANTS.items():
        config = study.train_config(next(iter(study.FOLDS)), "folder")
        change(config)
        check_config(config)
        if not path.stem.startswith("system"):  # each of which has measures of its own
            assert config.score == "equal_share"  # that no variant takes away
        make_trainer(config, steps_per_epoch=1, steps=1)
        seen[name] = config.to_json()
    evaluation = study.evaluate_config(next(iter(study.FOLDS)), str(tmp_path))
    HeadSpec(**evaluation.head.to_dict() | {"l2": (0.2,)})  # left open, by features
    if path.stem != "system_trials":  # the recipe has none
        assert seen["recipe"] == plain.to_json()
    assert len(set(seen.values())) == len(seen)  # every variant varies something


def test_spells_are_located_where_features_are_those_of_ticks():
    study = load_file(ROOT / "configs" / "studies" / "systems.py")
    found = {}
    for variant in ("recipe", "clip", "qformer"):
        settings = study.evaluate_config("default", "folder")
        study.evaluate_variant(settings, variant)
        found[variant] = settings.localisation
    assert found == {"recipe": True, "clip": True, "qformer": False}


def test_systems_are_tested_across_on_other_furnaces_of_the_other_profile(tmp_path):
    study = load_file(ROOT / "configs" / "studies" / "systems_across.py")
    study.TESTED |= {"recordings": 2, "duration_s": 30.0}
    config = study.train_config("default", str(tmp_path))
    settings = study.evaluate_config("default", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert settings.test_data == str(folder)
    assert not settings.head_data
    made = json.loads((folder / "simulation.json").read_text())
    assert folder.name.startswith("hard-")
    assert made["recordings"] == 2
    assert made["seed"] != config.data.options.seed
    assert made["frame_rate_hz"] == config.data.options.frame_rate_hz
    assert config.data.options.profile == "default"


def test_what_reads_both_at_once_is_evaluated_so():
    study = load_file(ROOT / "configs" / "studies" / "system_conditions.py")
    found = {}
    for variant in ("clmlf", "clmlf_dropout", "micu_no_fine"):
        settings = study.evaluate_config("default", "folder")
        study.evaluate_variant(settings, variant)
        found[variant] = (settings.source, settings.target, settings.retrieval)
    apart = ("video", "current", True)
    assert found == {
        "clmlf": ("fused", "fused", False),
        "clmlf_dropout": apart,
        "micu_no_fine": apart,
    }
    trials = load_file(ROOT / "configs" / "studies" / "system_trials.py")
    for variant, view in (
        ("clmlf+0.001+temperature=0.07", "fused"),
        ("clmlf_pairs+0.001+temperature=0.07", "current"),
    ):
        settings = trials.evaluate_config("default", "folder")
        trials.evaluate_variant(settings, variant)
        assert settings.target == view


def test_fmformer_has_six_trials_beside_the_oracle():
    study = load_file(ROOT / "configs" / "studies" / "system_conditions.py")
    shipped, *trials = study.evaluate_config("default", "folder").classifiers.items()
    assert shipped[0] == "fmformer_current"
    tried = [own.training for _, own in trials]
    assert {(t.learning_rate, t.weight_decay) for t in tried} == {
        (rate, decay) for rate in (3e-4, 1e-3, 3e-3) for decay in (0.3, 0.03)
    }
    for name, own in trials:
        rate, decay = name.split("+")[1:]
        assert float(rate) == own.training.learning_rate
        assert float(decay.removeprefix("weight_decay=")) == own.training.weight_decay
        own.training = shipped[1].training
        assert own == shipped[1]


def _given(settings):
    """Returns the settings that are given; None is the same as none."""
    if not isinstance(settings, dict):
        return settings
    return {k: _given(v) for k, v in settings.items() if v is not None}


def _made(study, change, fold="default"):
    """Returns the config that a change of a study makes."""
    config = study.train_config(fold, "folder")
    change(config)
    return config


def test_each_system_ships_as_one_of_its_trials():
    study = load_file(ROOT / "configs" / "studies" / "system_trials.py")

    def made(change):
        return _given(_made(study, change).to_dict())

    tried = {}
    for name, change in study.VARIANTS.items():
        tried.setdefault(name.partition("+")[0], []).append(made(change))
    assert all(len(trials) >= 6 for trials in tried.values())
    assert set(tried) == set(study.SYSTEMS) - {"clmlf_dropout"}  # of `clmlf`
    for system, trials in tried.items():
        assert made(study.SYSTEMS[system]) in trials, system


def test_a_learning_rate_of_its_own_is_no_other_systems():
    study = load_file(ROOT / "configs" / "studies" / "systems.py")
    common = study.train_config("default", "folder").optimizer.learning_rate
    own = {}
    for name, change in study.VARIANTS.items():
        rate = _made(study, change).optimizer.learning_rate
        if rate != common:
            own[name] = rate
    systems = {"clip": 3e-3, "distilled": 3e-3, "fcid": 3e-4}
    wrong = {f"{name}_shuffled_pairs": rate for name, rate in systems.items()}
    assert own == systems | wrong | {"clip_at_lead_0": 3e-3}


def test_every_system_has_its_control_of_wrong_pairs_and_no_other_difference():
    study = load_file(ROOT / "configs" / "studies" / "systems.py")
    for name, change in study.COMPARED.items():
        own = _made(study, change).to_dict()
        control = _made(study, study.VARIANTS[f"{name}_shuffled_pairs"]).to_dict()
        assert not own["data"].pop("shuffle_partners")
        assert control["data"].pop("shuffle_partners")
        assert control == own


def test_people_are_learnt_at_one_rate_but_for_the_row_that_shows_another():
    study = load_file(ROOT / "configs" / "studies" / "systems_utd.py")
    rates = {}
    for name, change in study.VARIANTS.items():
        rate = _made(study, change, "s6").optimizer.learning_rate
        rates.setdefault(rate, []).append(name)
    assert rates.pop(3e-3) == ["clip_furnace_rate"]
    assert list(rates) == [study.train_config("s6", "folder").optimizer.learning_rate]


def test_folds_of_people_keep_them_apart():
    study = load_file(ROOT / "configs" / "studies" / "utd_mhad.py")
    tested = []
    for fold in study.FOLDS:
        training, validation, test = study.people(fold)
        assert sorted([*training, validation, test]) == list(study.PEOPLE)
        tested.append(test)
    assert sorted(tested) == list(study.PEOPLE)
    assert study.people("s6") == ([1, 2, 3, 4], 5, 6)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("recipe", [1, 2, 3, 4]), ("transductive", [1, 2, 3, 4, 6])],
)
def test_transductive_adds_the_person_tested_alone(variant, expected):
    study = load_file(ROOT / "configs" / "studies" / "utd_mhad.py")
    config = study.train_config("s6", "folder")
    study.VARIANTS[variant](config)
    held_out = config.data.split.validation_recordings
    names = {person: f"utd_mhad_s{person}" for person in study.PEOPLE}
    trained = [
        person
        for person, name in names.items()
        if fnmatch(f"folder/{name}.npz", config.data.path) and name not in held_out
    ]
    assert trained == expected


def test_the_fold_of_clips_tests_a_fifth_of_them_and_says_so_by_its_own_splits():
    study = load_file(ROOT / "configs" / "studies" / "systems_utd.py")
    config = study.train_config("clips", "folder")
    assert config.data.split.by == "clip"
    assert (config.data.split.validation, config.data.split.test) == (0.0, 0.2)
    assert not config.data.split.validation_recordings
    assert all(
        fnmatch(f"folder/utd_mhad_s{person}.npz", config.data.path)
        for person in range(1, 7)
    )
    evaluation = study.evaluate_config("clips", "folder")
    assert not evaluation.head_data
    assert not evaluation.test_data
    people = study.evaluate_config("s6", "folder")
    assert people.test_data == "folder/utd_mhad_s[6].npz"


STUDY = """
DATA = "data"
FOLDS, SEEDS = ("one", "two"), (0,)
VARIANTS = {"recipe": lambda config: None, "other": lambda config: None}
"""


def _scores(value):
    own = {"accuracy": value, "balanced_accuracy": value, "auroc": value}
    return {d: {"test": own, "validation": own} for d in DIRECTIONS}


def _run(variant, fold, seed, value):
    shared = {"chance": 0.5, "step": 3, "zero_shot": _scores(value)}
    reference = {"test": {"balanced_accuracy": 0.9}}
    codes = shared | {
        "oracle": reference,
        "random_encoders": {"video->current": reference},
    }
    validation = {
        "equal_share": value / 2,
        "token_agreement/current-video": value / 4,
        "chance_agreement/current-video": 0.125,
        "code_cosine/current-video": value,
        "cpc_accuracy": 0.1,
        "perplexity/video": 9.0,
        "perplexity/current": 40.0,
    }
    made = {"commit": "abc", "jax": "1", "python": "3", "devices": ["cpu"], "cpus": 2}
    return {
        "variant": variant,
        "fold": fold,
        "seed": seed,
        "steps": 3,
        "train_s": 1.0,
        "evaluate_s": 1.0,
        "validation": validation,
        "evaluations": {
            "codes": codes,
            "semantic": shared,
            "codes_by_recording": shared,
        },
        **made,
    }


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    study = load_file(ROOT / "scripts" / "study.py")
    (tmp_path / "study.py").write_text(STUDY)
    out = tmp_path / "out" / "found.json"
    asked = []

    def train_seeds(module, variant, fold, seeds, data, workdir):
        assert workdir.name == f"{variant}-{fold}-0"
        return {seed: (workdir, {}) for seed in seeds}

    def evaluated(module, key, data, workdir, summary, *, references):
        assert references
        asked.append(key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return _run(*key, 0.5)

    monkeypatch.setattr(study, "train_seeds", train_seeds)
    monkeypatch.setattr(study, "evaluated", evaluated)
    monkeypatch.setattr(study, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(
        sys, "argv", ["study", str(tmp_path / "study.py"), "--out", str(out)]
    )
    with pytest.raises(KeyboardInterrupt):
        study.main()
    assert len(json.loads(out.read_text())) == 2
    study.main()
    variants = ("recipe", "other")
    expected = [(v, f, 0) for v in variants for f in ("one", "two")]
    assert asked == [*expected[:3], *expected[2:]]
    found = [(r["variant"], r["fold"], r["seed"]) for r in json.loads(out.read_text())]
    assert found == expected


def test_seeds_are_trained_together_and_kept_one_by_one(tmp_path, monkeypatch):
    study = load_file(ROOT / "scripts" / "study.py")
    (tmp_path / "study.py").write_text(STUDY)
    out = tmp_path / "found.json"
    trained, asked = [], []

    def train_seeds(module, variant, fold, seeds, data, workdir):
        trained.append((variant, fold, workdir.name))
        return {seed: (workdir / str(seed), {"seed": seed}) for seed in seeds}

    def evaluated(module, key, data, workdir, summary, *, references):
        assert (workdir.name, summary["seed"]) == (str(key[2]), key[2])
        assert not references
        asked.append(key)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return _run(*key, 0.5)

    monkeypatch.setattr(study, "train_seeds", train_seeds)
    monkeypatch.setattr(study, "evaluated", evaluated)
    monkeypatch.setattr(study, "keep_compiled_programs", lambda: None)
    argv = ["study", str(tmp_path / "study.py"), "--out", str(out), "--together"]
    argv += ["--no-references", "--seeds", "0", "1", "--folds", "one"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(KeyboardInterrupt):
        study.main()
    study.main()
    # The one that is left is a member of the same sweep, which goes on where it was.
    first = ("recipe", "one", "recipe-one-0+1")
    assert trained == [first, first, ("other", "one", "other-one-0+1")]
    expected = [(v, "one", seed) for v in ("recipe", "other") for seed in (0, 1)]
    assert asked == [expected[0], expected[1], *expected[1:]]
    found = [(r["variant"], r["fold"], r["seed"]) for r in json.loads(out.read_text())]
    assert found == expected


@pytest.mark.parametrize("wanted", [None, ("codes",)])
def test_a_study_may_want_some_evaluations_alone(tmp_path, monkeypatch, wanted):
    study = load_file(ROOT / "scripts" / "study.py")
    (tmp_path / "study.py").write_text(STUDY)
    module = load_file(tmp_path / "study.py")
    if wanted:
        module.EVALUATED = wanted
    module.evaluate_config = lambda fold, data: evaluation_config()
    asked = []

    def evaluate(settings):
        asked.append((settings.features, settings.standardise))
        report = {"checkpoint": {"step": 3}, "labels": "L0", "supervised": {}}
        report |= dict.fromkeys(("code_sharing", "retrieval", "localisation"))
        beside = {"chance": 0.5, "oracle": None, "random_encoders": None}
        return report | {"references": beside, "zero_shot": {}}, None

    monkeypatch.setattr(study, "evaluate", evaluate)
    monkeypatch.setattr(study.restore, "open_run", lambda path, step: (path, step))
    monkeypatch.setattr(
        study.restore, "trained_windows", {(tmp_path, "latest"): 7}.__getitem__
    )
    summary = {"step": 3, "seconds": 1.0, "validation": {}}
    found = study.evaluated(
        module, ("other", "one", 0), "folder", tmp_path, summary, references=False
    )
    everything = {
        "codes": ("", "head"),
        "semantic": ("semantic", "head"),
        "codes_by_recording": ("", "recording"),
    }
    expected = {name: everything[name] for name in wanted or everything}
    assert asked == list(expected.values())
    assert list(found["evaluations"]) == list(expected)
    assert found["windows_crc32"] == 7


def test_tables_tell_mean_spread_and_difference(tmp_path, monkeypatch):
    writer = load_file(ROOT / "scripts" / "write_results.py")
    folder = tmp_path / "results"
    folder.mkdir()
    runs = [
        _run("recipe", "one", 0, 0.6),
        _run("recipe", "one", 1, 0.8),
        _run("recipe", "two", 0, 0.9),
        _run("without_club", "one", 0, 0.5),
        _run("without_club", "one", 1, 0.5),
        _run("without_club", "three", 1, 0.3),  # no recipe to compare with
        _run("codes_20", "three", 1, 0.1),
    ]
    runs[-1]["validation"]["equal_share"] = 0.9
    for run in runs[1:3]:  # as with --no-references
        run["evaluations"]["codes"] |= {"oracle": None, "random_encoders": {}}
    (folder / "toy.json").write_text(json.dumps(runs))
    (folder / "toy.md").write_text("What was seen.")
    out = tmp_path / "results.md"
    argv = ["write", str(folder / "toy.json"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    writer.main()
    page = out.read_text()
    assert "What was seen." in page
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in page.splitlines()]
    one = next(row for row in rows if row[:2] == ["one", "2"])
    assert one[2] == "0.700 ± 0.141"  # sd of 0.6 and 0.8 with n - 1
    assert one[-3:] == ["0.900", "0.900", "0.500"]
    two = next(row for row in rows if row[:2] == ["two", "1"])
    assert two[-3:] == ["", "", "0.500"]
    without = next(row for row in rows if row[:3] == ["without club", "one", "2"])
    assert without[3] == "0.500 ± 0.000"
    assert without[4] == without[5] == without[3]  # as good on validation
    # 0.5 less the mean of 0.6 and 0.8; their standard error is 0.1, the others' 0.
    assert without[6] == without[7] == "-0.200 ± 0.100"
    # Fold by fold, the best first; each variant once in both tables.
    order = [row[:2] for row in rows if len(row) > 1 and row[1] in ("one", "three")]
    best_first = [["**recipe**", "one"], ["without club", "one"]]
    assert order == 2 * [*best_first, ["without club", "three"], ["codes 20", "three"]]
    alone = next(row for row in rows if row[:3] == ["without club", "three", "1"])
    assert alone[3:8] == ["0.300"] * 3 + ["", ""]
    agreed = "0.125 (0.125)"
    codes = next(row for row in rows if row[:3] == ["without club", "one", agreed])
    assert codes[-1] == "9 / 40"
    shares = next(row for row in rows if row[:1] == ["`equal_share`"])
    # Ranks differ by 1 six times and by 6 once; a pair shares its rank in both:
    # (2 * 27.5 - 42) / (2 * 27.5).
    assert shares[1:3] == ["7", "+0.24"]
    assert shares[4:6] == ["6", "+1.00"]
    picture = plt.imread(folder / "agreement.png")
    assert picture.std() > 0


def test_a_study_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="must be a Python file; got"):
        load_file(tmp_path / "missing.py")


def test_a_curve_is_drawn_of_what_a_run_logged(tmp_path):
    drawer = load_file(ROOT / "scripts" / "draw_curve.py")
    lines = [
        {
            "split": "validation",
            "step": step,
            "cpc_accuracy": 0.1 * step,
            "cpc_accuracy/video->current": 0.1,
            "zero_shot/video->current": 0.5,
        }
        for step in (1, 2)
    ]
    text = "\n".join(map(json.dumps, [*lines, {"split": "train", "step": 3}]))
    (tmp_path / "metrics.jsonl").write_text(text)
    found = drawer.validations(tmp_path)
    assert found == lines
    drawer.draw(found, 2, tmp_path / "curve.png")
    assert plt.imread(tmp_path / "curve.png").std() > 0
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit, match="needs validations; got none"):
        drawer.validations(tmp_path)
