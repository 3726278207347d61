"""A run as one file: what is written is read, and nothing else is."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest

from fmalign_jax.config import default_config
from fmalign_jax.config.saved import to_json
from fmalign_jax.run import open_run, packed, trust
from fmalign_jax.run.directory import check_same_run
from fmalign_jax.run.packed import PackedRun
from fmalign_jax.run_report.model_card import model_card
from fmalign_jax.systems.system import make_system


def _run(**changes):
    rng = np.random.default_rng(0)
    own = {
        "name": "furnace_7",
        "step": 480,
        "chosen": "best",
        "windows_crc32": 12,
        "version": "0.1.0",
        "settings": to_json(default_config()),
        "arrays": {
            "params/stems_video/kernel": rng.normal(size=(3, 4)).astype(np.float32),
            "params/stems_%2Fvideo/..": np.arange(5, dtype=np.int32),
            "statistics/video/mean": np.zeros(3, np.float32),
        },
        "card": "# furnace_7 炉\n",
    }
    return PackedRun(**(own | changes))


@pytest.fixture
def file(tmp_path):
    _run().save(tmp_path / "a.fmrun")
    return tmp_path / "a.fmrun"


def _same(found, expected):
    assert found.arrays.keys() == expected.arrays.keys()
    for path, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], array)
        assert found.arrays[path].dtype == array.dtype
    for field in ("name", "step", "chosen", "windows_crc32", "settings", "card"):
        assert getattr(found, field) == getattr(expected, field)


def _rewritten(path, **changes):
    """Writes the entries of a file anew, some changed, with digests that fit."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(entries.pop("run.json")) | changes.pop("about", {})
    entries |= {name.replace("__", "/"): new for name, new in changes.items()}
    card = entries.pop("MODEL_CARD.md")
    del about["digest"]
    about["digest"] = packed._digest(
        {name: own for name, own in about.items() if name != "card"}, entries
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "run.json": json.dumps(about),
            "MODEL_CARD.md": card,
            **entries,
        }.items():
            archive.writestr(name, content)


def test_what_was_written_is_read(file):
    found = packed.load(file)
    _same(found, _run())
    assert found.digest == _run().digest
    with np.load(file) as arrays:  # a .npz for everybody else
        np.testing.assert_array_equal(
            arrays["params/stems_video/kernel"],
            _run().arrays["params/stems_video/kernel"],
        )


def test_the_same_run_gives_the_same_bytes(file, tmp_path):
    _run().save(tmp_path / "b.fmrun")
    assert (tmp_path / "b.fmrun").read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_digest_is_of_config_and_arrays_and_not_of_the_card():
    first = _run()
    assert _run(card="another").digest == first.digest
    assert _run(step=481).digest != first.digest
    arrays = dict(first.arrays)
    arrays["statistics/video/mean"] = np.full(3, 1e-45, np.float32)
    assert _run(arrays=arrays).digest != first.digest
    settings = first.settings | {"seed": 1}
    assert _run(settings=settings).digest != first.digest


def test_a_damaged_byte_is_found(file):
    whole = file.read_bytes()
    rng = np.random.default_rng(1)
    refused = []
    for place in rng.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            found = packed.load(file)
        except ValueError as error:
            refused.append(str(error))
        else:  # a date in a header, which says nothing
            _same(found, _run())
    assert len(refused) > 100
    assert all(said.startswith(f"{file}: ") for said in refused)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_file_is_refused(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="must be a packed run"):
        packed.load(file)


def test_other_files_are_refused(tmp_path, file):
    foreign = tmp_path / "foreign.fmrun"
    foreign.write_text("# not an archive\n")
    with pytest.raises(ValueError, match="must be a packed run"):
        packed.load(foreign)
    np.savez(tmp_path / "furnace.npz", frames=np.zeros(3))
    (tmp_path / "furnace.npz").rename(foreign)
    with pytest.raises(ValueError, match="must be a packed run"):
        open_run(foreign)
    named = file.rename(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"file \*\.fmrun"):
        open_run(named)
    with pytest.raises(ValueError, match=r"a file \*\.fmrun"):
        open_run(tmp_path / "absent.fmrun")
    with pytest.raises(ValueError, match=r"give .*b\.fmrun"):
        _run().save(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("found", "told"),
    [(2, "install a later"), (0, "never was"), ("1", "never was"), (None, "never was")],
)
def test_another_format_is_refused(file, found, told):
    _rewritten(file, about={"format": found})
    with pytest.raises(ValueError, match=told):
        packed.load(file)


def _pickled():
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return content.getvalue()


def _saying(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + bytes(8)


@pytest.mark.parametrize(
    "changes",
    [
        {"params__x.npy": _pickled()},
        {"params__x.npy": _saying((1 << 50,))},
        {"params__x.npy": _saying((1,))},
        {"params__x.npy": b"no array"},
        {"params.npy": packed.archives.array_bytes(np.zeros(2))},
        {"elsewhere__x.npy": packed.archives.array_bytes(np.zeros(2))},
        {"params__x.npy": packed.archives.array_bytes(np.array(["text"]))},
        {
            "params__stems_video__kernel__x.npy": packed.archives.array_bytes(
                np.zeros(2)
            )
        },
        {"config.json": b"[]"},
        {"config.json": b"{" * 100_000},
        {"about": {"step": "480"}},
        {"about": {"step": -1}},
        {"about": {"windows_crc32": None}},
        {"about": {"name": 7}},
        {"about": {"surprise": 7}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_has_the_right_digest_and_is_no_run_is_refused(file, changes):
    _rewritten(file, **changes)
    with pytest.raises(ValueError, match="must be a packed run"):
        packed.load(file)


def test_the_helper_of_these_tests_leaves_a_whole_file_whole(file):
    _rewritten(file)
    _same(packed.load(file), _run())


def test_two_entries_of_one_name_are_refused(file):
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(file, "a") as archive,
    ):
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="of one name"):
        packed.load(file)


def test_its_config_runs_no_code_of_others(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('the trap was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = to_json(default_config())
    settings["model"]["name"] = "trap.System"
    _run(settings=settings).save(tmp_path / "a.fmrun")
    with pytest.raises(ValueError, match=r"model\.name must name a class"):
        open_run(tmp_path / "a.fmrun")
    assert trust.PACKAGE == "fmalign_jax"


def test_it_holds_one_checkpoint(file):
    for step in ("best", "latest", 480, "480"):
        assert open_run(file, step).step == 480
    with pytest.raises(ValueError, match="holds one checkpoint; got step '400'"):
        open_run(file, 400)
    assert open_run(file).folder == file.parent / "a"


def test_arrays_of_another_system_are_refused(file):
    system = make_system(default_config())
    with pytest.raises(ValueError, match=r"state/codebook/counts: absent there"):
        packed.load(file).state(system.empty_model_state())


def test_names_never_become_parts_of_a_path(file):
    found = packed.load(file)._tree("params")
    assert set(found) == {"stems_video", "stems_/video"}
    assert set(found["stems_/video"]) == {".."}


def test_training_does_not_go_on_in_a_file(file):
    with pytest.raises(ValueError, match="a packed run is for reading"):
        check_same_run(file, {})


def _evaluation(step):
    scores = {"balanced_accuracy": 0.8125, "auroc": 0.9, "f1": None}
    intervals = {"balanced_accuracy": [0.75, 0.875], "auroc": None}
    return {
        "checkpoint": {"step": step},
        "source": "video",
        "target": "current",
        "labels": "L0",
        "classes": ["normal", "semi|molten"],
        "features": "semantic",
        "headline_split": "test",
        "splits": {
            "test": {
                "windows": 459,
                "recordings": ["a", "b"],
                "seen_in_pretraining": False,
            }
        },
        "zero_shot": {"video->current": scores | {"intervals": intervals}},
        "references": {
            "majority": {"class": "normal", "balanced_accuracy": 0.5},
            "random_encoders": {"video->current": {"balanced_accuracy": 0.625}},
            "oracle": None,
        },
        "code_sharing": None,
        "notes": ["test: only 2 recordings"],
    }


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_a_card_says_what_was_measured_of_the_checkpoint(tmp_path):
    run = _run()
    _write(
        tmp_path / "summary.json",
        {"steps": 500, "seconds": 310.4, "windows": {"test": 459}, "labels": "L0"},
    )
    _write(tmp_path / "evaluation" / "eval.json", _evaluation(480))
    other = _evaluation(500) | {"notes": ["of another checkpoint"]}
    _write(tmp_path / "evaluation-1a2b3c4d" / "eval.json", other)
    lead = {
        "checkpoint": {"step": 480},
        "verdict": "lead found",
        "estimate_s": 240.4,
        "interval_s": [231.0, 252.0],
        "origin": "the run",
    }
    _write(tmp_path / "lead_time" / "lead_time.json", lead)
    card = model_card(run, tmp_path, licence="CC BY 4.0")
    for said in (
        f"`{run.digest}`",
        "step 480 of 500",
        "| video->current | 0.812 [0.750, 0.875] | 0.900 | - |",
        "| random encoders, video->current | 0.625 | - | - |",
        "459 windows of 2 recordings (in no training)",
        "lead found, 240 s [231, 252]",
        "- test: only 2 recordings.",
        "Weights: CC BY 4.0.",
        "Trained on simulated furnaces",
        "training cannot go on",
        "3 channels",
    ):
        assert said in card
    assert "1a2b3c4d" not in card
    assert "of another checkpoint" not in card
    assert str(tmp_path) not in card


def test_a_card_says_that_nothing_was_measured(tmp_path):
    card = model_card(dataclasses.replace(_run(), step=3), tmp_path)
    assert "Nothing: this checkpoint has no evaluation" in card
    assert "what it is worth is not known" in card
    assert "Weights: none is stated here" in card


def test_a_card_has_the_means_of_a_study(tmp_path):
    def row(variant, seed, value):
        test = {"test": {"balanced_accuracy": value}}
        return {
            "variant": variant,
            "fold": "default",
            "seed": seed,
            "steps": 480,
            "evaluations": {"codes": {"zero_shot": {"video->current": test}}},
        }

    path = tmp_path / "study.json"
    _write(path, [row("recipe", 0, 0.8), row("recipe", 1, 0.9), row("clip", 0, 0.1)])
    card = model_card(_run(), tmp_path, studies=[(path, "recipe")])
    deviation = np.std([0.8, 0.9], ddof=1)
    assert f"| codes | video->current | 0.850 ± {deviation:.3f} | 2 |" in card
    assert "seeds 0, 1" in card
    with pytest.raises(ValueError, match="choose one of clip, recipe"):
        model_card(_run(), tmp_path, studies=[(path, "micu")])
    _write(path, {"none": 1})
    with pytest.raises(ValueError, match="a study must be a file"):
        model_card(_run(), tmp_path, studies=[(path, "recipe")])


def test_a_card_is_not_made_of_a_damaged_file(tmp_path):
    found = _evaluation(480)
    del found["zero_shot"]
    _write(tmp_path / "evaluation" / "eval.json", found)
    with pytest.raises(ValueError, match=r"eval\.json: must be as its command wrote"):
        model_card(_run(), tmp_path)
