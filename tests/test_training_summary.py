"""The end of training says what the values mean, and what may be done next."""

import pathlib

import pytest
from ml_collections import ConfigDict

from fmalign_jax import __main__ as word
from fmalign_jax.config import default_config
from fmalign_jax.evaluation import training_summary
from fmalign_jax.evaluation.code_sharing import PARTLY_FROM, SHARED_FROM

HEALTHY = {
    "loss": 19.4,
    "loss/cross_cpc": 7.5,
    "norm/gradient": 0.3,
    "cpc_accuracy": 0.25,
    "cpc_accuracy/current->current": 0.06,
    "cpc_accuracy/video->current": 0.2,
    "zero_shot/video->current": 0.8,
    "perplexity/current": 12.0,
    "perplexity/video": 31.25,
    "used_codes/all": 9.0,
    "chance_agreement/current-video": 0.028,
    "token_agreement/current-video": 0.038,
    "equal_share": 0.043,
}
SHARED = {
    "shared_equal_share": 0.82,
    "shared_kappa/current-video": 0.61,
    "shared_nats/current-video": 0.32,
}


def _summary(validation, **changes):
    return {
        "step": 480,
        "steps": 480,
        "windows": {"train": 2709, "validation": 92, "test": 0},
        "finished": True,
        "train": {"loss": 18.0, "windows_per_s": 145.31, "waiting_share": 0.0123},
        "validation": validation,
        "best_step": 400,
        "best_score": 0.1234567,
        "best_checkpoint": "runs/a/checkpoints/400",
        "latest_checkpoint": "runs/a/checkpoints/480",
        "seconds": 264.0,
    } | changes


def _meaning(values, config=None):
    return training_summary.meaning(_summary(values), config or default_config())


@pytest.mark.parametrize(
    ("kappa", "nats", "sentence"),
    [
        (
            0.61,
            0.32,
            "codes are shared: kappa 0.61 (chance 0), 0.32 nats beyond chance",
        ),
        (SHARED_FROM, 0.2, "codes are shared: kappa 0.40 (chance 0), 0.20 nats"),
        (PARTLY_FROM, 0.1, "codes are partly shared: kappa 0.10 (chance 0), 0.10 nats"),
        (0.02, 0.01, "codes are not shared: kappa 0.02 (chance 0), 0.01 nats"),
        (0.5, -0.01, "codes are not shared: kappa 0.50 (chance 0), -0.01 nats"),
    ],
)
def test_a_sentence_says_whether_codes_are_shared(kappa, nats, sentence):
    values = {
        **HEALTHY,
        "shared_kappa/current-video": kappa,
        "shared_nats/current-video": nats,
    }
    (said,) = _meaning(values)
    assert said.startswith(sentence)
    assert said.endswith("docs/outputs.md") == ("not shared" in sentence)


def test_a_collapse_is_said_first_with_the_size_of_the_codebook():
    config = default_config()
    config.codebook.codes = 64
    collapsed = {**HEALTHY, **SHARED, "perplexity/current": 1.2}
    first, second = _meaning(collapsed, config)
    assert first.startswith("collapsed: perplexity 1.2 of 64 (current); ")
    assert second.startswith("codes are shared")
    (alone,) = _meaning({**HEALTHY, "perplexity/video": 1.99}, config)
    assert alone.startswith("collapsed: perplexity 2.0 of 64 (video)")
    assert not any("collapsed" in said for said in _meaning(HEALTHY, config))


def test_pairs_are_told_apart_where_there_are_several():
    other = {"shared_kappa/current-text": 0.02, "shared_nats/current-text": 0.01}
    said = _meaning({**HEALTHY, **SHARED, **other})
    assert [sentence.partition(":")[0] for sentence in said] == [
        "codes of current-video are shared",
        "codes of current-text are not shared",
    ]


def test_without_a_shared_level_or_codes_it_says_what_was_measured():
    (ticks,) = _meaning(HEALTHY)
    assert ticks.startswith(
        "current-video: the same code in 0.038 of the ticks (chance 0.028)"
    )
    clip = ConfigDict({"score": "clip_accuracy", "batch_size": 8})
    (score,) = _meaning({"clip_accuracy": 0.5}, clip)
    assert score.startswith("clip_accuracy is 0.500 (chance 0.125)")
    clip.score = "-loss"
    assert _meaning({"loss": 3.0}, clip)[0].startswith("loss is 3.000;")
    (units,) = _meaning({"perplexity/current": 1.0}, clip)  # not of a codebook
    assert units.startswith("collapsed: perplexity 1.0 (current)")
    assert "nothing was validated" in _meaning(None)[0]


def test_values_stand_under_their_headings():
    found = training_summary.tables(
        _summary({**HEALTHY, **SHARED}), pathlib.Path("nowhere"), "cpc_accuracy"
    )
    names = {heading: [row[0] for row in rows] for heading, rows in found.items()}
    assert names["Losses (validation)"] == ["loss", "loss/cross_cpc"]
    assert names["Codebook (validation)"] == [
        "perplexity/current",
        "perplexity/video",
        "used_codes/all",
        "token_agreement/current-video",
        "equal_share",
        *SHARED,
    ]
    assert names["Transfer (validation)"] == [
        "cpc_accuracy",
        "cpc_accuracy/video->current",
        "zero_shot/video->current",
    ]
    assert found["Speed"] == [
        ["steps", "480 of 480, 264 s"],
        ["windows_per_s", "145"],
        ["waiting_share", "0.0123"],
    ]
    assert found["Files"][:2] == [
        ["best checkpoint", "runs/a/checkpoints/400"],
        ["chosen by", "cpc_accuracy, at best 0.1235"],
    ]
    assert "curves" not in names["Files"]


def test_it_says_where_few_windows_were_judged():
    windows = {"train": 68, "validation": 13, "test": 0}
    summary = _summary({**HEALTHY, **SHARED}, windows=windows)
    said = training_summary.meaning(summary, default_config())
    assert said[0].startswith("codes are shared")
    assert said[1] == "judged by 13 windows of validation, and fewer than 50 say little"


def test_it_says_which_commands_come_next(tmp_path, capsys):
    run = tmp_path / "my run"
    (run / "tensorboard").mkdir(parents=True)
    summary = _summary({**HEALTHY, **SHARED})
    training_summary.print_summary(summary, run, default_config())
    said = capsys.readouterr().out
    assert f"tensorboard --logdir '{run}/tensorboard'" in said
    next_lines = said[said.index("What next") :].splitlines()[1:]
    commands = [line.split("  ")[1] for line in next_lines]
    assert commands == [
        f"fmalign {name} '{run}'" for name in ("evaluate", "report", "lead")
    ]
    assert {command.split()[1] for command in commands} <= set(word.COMMANDS)
    assert "What it means\n  codes are shared: kappa 0.61 (chance 0)" in said
    training_summary.print_summary(_summary(HEALTHY), tmp_path, default_config())
    means = capsys.readouterr().out.partition("What it means\n")[2].splitlines()
    assert means[0].startswith("  current-video: the same code")
    assert means[1].startswith("    ")
    assert max(map(len, means[:2])) <= 80


def test_a_run_that_stopped_goes_on_and_clips_have_no_lead():
    config = default_config()
    config.data.windows = "clip"
    summary = _summary(None, step=120, finished=False)
    rows = training_summary.next_commands(summary, pathlib.Path("runs/a"), config)
    assert rows[0] == ["the same command", "goes on from step 120"]
    assert [row[0] for row in rows[1:]] == [
        "fmalign evaluate runs/a",
        "fmalign report runs/a",
    ]


def test_paths_below_the_current_folder_are_told_from_there_on(
    tmp_path, monkeypatch, capsys
):
    workdir, elsewhere = tmp_path / "my runs" / "a", tmp_path.with_name("elsewhere")
    summary = _summary(
        HEALTHY,
        best_checkpoint=str(workdir / "checkpoints" / "400"),
        latest_checkpoint=str(elsewhere / "480"),
    )
    monkeypatch.chdir(tmp_path)
    training_summary.print_summary(summary, workdir, default_config())
    said = capsys.readouterr().out
    words = [line.split("  ") for line in said.splitlines()]
    told = {row[1]: row[-1].strip() for row in words if len(row) > 2}
    assert told["best checkpoint"] == "my runs/a/checkpoints/400"
    assert told["latest checkpoint"] == str(elsewhere / "480")
    assert told["metrics"] == "my runs/a/metrics.jsonl"
    assert "fmalign report 'my runs/a'" in said
    assert str(tmp_path) + "/" not in said
    none = training_summary.tables(
        _summary(HEALTHY, best_checkpoint=None, best_score=None), workdir, "loss"
    )
    assert none["Files"][0] == ["best checkpoint", "None"]
