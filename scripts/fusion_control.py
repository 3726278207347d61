"""Shows what agreement of codes is worth where one modality sees the other.

    python scripts/fusion_control.py runs/systems/recipe-default-0 \\
        --fused runs/systems/fused_control --out docs/results/fusion_control.json

The fused run is trained, as far as it is not, with the config of the unfused one and
the change `fused_control` of configs/systems.py: the current looks at the video before
it is quantised. Then a head on the video is applied to the current of unseen
recordings: with its own video, without one, and with a *donor*, the video of a window
of another recording that has another label. If the answer is the donor's label, the
"current" reports the video. The same is asked without labels: whose answers and whose
codes does the current have then, the donor's or its own video's? A page of the same
name (.md) has the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import operator
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from numpy import ndarray
from write_results import table

from fmalign_jax.cli import keep_compiled_programs
from fmalign_jax.config import evaluation_config, load_file
from fmalign_jax.data import pipeline
from fmalign_jax.data.files import write_json, write_text
from fmalign_jax.evaluation import heads, splits as evaluation_splits
from fmalign_jax.evaluation.classification_metrics import Predictions, score
from fmalign_jax.evaluation.heads import HeadSpec
from fmalign_jax.evaluation.labelled_windows import LabelledWindows
from fmalign_jax.evaluation.transfer import L2, groups, kinds_of_features, scale_of
from fmalign_jax.run import restore
from fmalign_jax.run.frozen_encoder import Encodings
from fmalign_jax.run.restore import OpenedRun
from fmalign_jax.systems.system import make_system
from fmalign_jax.train import train
from fmalign_jax.training import preprocess, sharding

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
HEAD_WINDOWS = 512  # evenly spread; the head needs no more
DRAWS = 1000
CONCLUSION = "Agreement of codes is evidence only if each modality was encoded alone."

LOGGED = ("equal_share", "shared_equal_share", "cpc_accuracy/current->video")
CPC_ACCURACY, CPC_LOSS = "cpc_accuracy/current->video", "loss/cross_cpc"

ROWS = {
    "video": "the video itself",
    "true_video": "(i) the current, its own video given",
    "absent": "(ii) the current, video absent",
    "donor": "(iii) the current, donor's video given: the donor's label",
    "own": "(iii) the same: the current's own label",
    "unfused": "(iv) the current of the unfused run",
    "unfused_video": "its video itself",
}


def donors(
    label: Int[ndarray, " N"], recording: Int[ndarray, " N"], seed: int
) -> Int[ndarray, " N"]:
    """Draws for each window one of another recording and another label; -1 for none."""
    rng = np.random.default_rng(seed)
    found = np.full(len(label), -1)
    for i, (own, number) in enumerate(zip(label, recording, strict=True)):
        others = np.flatnonzero((label != own) & (recording != number))
        if len(others):
            found[i] = rng.choice(others)
    return found


class Encoder:
    """Encodes currents beside any videos, as the system of a run does."""

    def __init__(self, run: OpenedRun) -> None:
        """Restores the run."""
        self.system = make_system(run.config)
        self._frozen = restore.restore(run, sharding.one_device_mesh())
        self._batch_size = run.config.batch_size
        self._encode = jax.jit(self._encoded)

    def __call__(
        self, split: LabelledWindows, video: Int[ndarray, " N"] | None
    ) -> Encodings:
        """Returns what the system gives.

        Args:
          split: the windows whose currents are encoded.
          video: numbers of the windows whose videos stand beside them, which are
            encoded too; None for no video.
        """
        parts = []
        for begin in range(0, len(split), self._batch_size):
            rows = begin + np.arange(self._batch_size)  # past the end: padding
            own = pipeline.assemble(split.store, split.windows, rows)
            streams = {"current": own["streams"]["current"]}
            if video is not None:
                beside = video[np.minimum(rows, len(video) - 1)]
                other = pipeline.assemble(split.store, split.windows, beside)
                streams["video"] = other["streams"]["video"]
            encoded = jax.device_get(self._encode(self._frozen, streams))
            parts.append(jax.tree.map(operator.itemgetter(own["mask"]), encoded))
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        state = self._frozen.model_state
        shared = {m: own.shared for m, own in joined.items() if own.shared}
        return Encodings(
            codes={m: own.codes for m, own in joined.items()},
            vectors=np.asarray(self.system.code_vectors(state)),
            semantic={m: own.features for m, own in joined.items()},
            variates={m: own.variates for m, own in shared.items()},
            shared_codes={m: own.codes for m, own in shared.items()},
            shared_vectors=self.system.shared_vectors(state),
        )

    def _encoded(self, frozen: Any, streams: Mapping[str, Any]) -> Any:
        return self.system.apply(
            {"params": frozen.params},
            preprocess.normalise(streams, frozen.statistics),
            frozen.model_state,
            tuple(sorted(streams)),
            method="encode",
        )


@dataclasses.dataclass(frozen=True)
class Judged:
    """A run on the windows that heads are fitted on, and on those that are tested."""

    head: LabelledWindows
    test: LabelledWindows
    donor: Int[ndarray, " N"]
    seed: int

    @classmethod
    def of(cls, run: OpenedRun, seed: int) -> Judged:
        """Opens the recordings of a run; test windows without a donor are left out."""
        splits = evaluation_splits.load_splits(evaluation_config(), run.config)
        head = splits.head.chosen(splits.head.known).spread(HEAD_WINDOWS)
        test = splits.by_name[splits.headline]
        test = test.chosen(test.known)
        has_donor = donors(test.label, test.windows.recording, seed) >= 0
        test = test.chosen(has_donor)
        return cls(head, test, donors(test.label, test.windows.recording, seed), seed)

    def measure(self, fused: Encoder, unfused: Encoder) -> dict[str, Any]:
        """Returns `scores`, ROWS by kind of features, and `follows`, see `_equal`."""
        splits = {"head": self.head, "test": self.test}
        own = {name: np.arange(len(split)) for name, split in splits.items()}
        given = {name: fused(split, own[name]) for name, split in splits.items()}
        absent = {name: fused(split, None) for name, split in splits.items()}
        plain = {name: unfused(split, own[name]) for name, split in splits.items()}
        swapped = {"head": given["head"], "test": fused(self.test, self.donor)}
        label, donated = self.test.label, self.test.label[self.donor]
        scores, follows = {}, {}
        for kind in kinds_of_features(fused.system):
            told = functools.partial(self._told, kind=kind)
            video = told(given, given, "video")
            of_donor = told(given, swapped, "current")
            scores[kind] = {
                "video": self._score(video, label),
                "true_video": self._score(told(given, given, "current"), label),
                "absent": self._score(told(given, absent, "current"), label),
                "donor": self._score(of_donor, donated),
                "own": self._score(of_donor, label),
                "unfused": self._score(told(plain, plain, "current"), label),
                "unfused_video": self._score(told(plain, plain, "video"), label),
            }
            answers, said = of_donor.argmax(axis=1), video.argmax(axis=1)
            follows[f"answer, {kind}"] = _equal(answers, said, self.donor)
        follows["code of a tick"] = _equal(
            swapped["test"].codes["current"], given["test"].codes["video"], self.donor
        )
        return {"scores": scores, "follows": follows}

    def _told(
        self,
        fitted: Mapping[str, Encodings],
        tested: Mapping[str, Encodings],
        modality: str,
        *,
        kind: str,
    ) -> ndarray:
        """Returns what a head on the video of one says of a modality of the other.

        Both are standardised by the head's windows, encoded in the same way.
        """
        head = heads.fit(
            HeadSpec(l2=(L2[kind],)),
            _standardised(fitted, "head", "video", kind),
            self.head.label,
            classes=int(self.head.label.max()) + 1,
            groups=groups(self.head),
            seed=self.seed,
        )
        return head.predict(_standardised(tested, "test", modality, kind))

    def _score(self, probability: ndarray, label: ndarray) -> dict[str, Any]:
        windows = self.test.windows
        found = score(
            Predictions(label, probability, windows.recording, windows.clip),
            draws=DRAWS,
            seed=self.seed,
        )
        return {
            "balanced_accuracy": found["balanced_accuracy"],
            "interval": found["intervals"]["balanced_accuracy"],
            "accuracy": found["accuracy"],
        }


def _equal(
    current: Int[ndarray, "N *T"], video: Int[ndarray, "N *T"], donor: ndarray
) -> dict[str, float]:
    """Returns how often a current beside the donor's video is equal to either video."""
    return {
        "donor": float(np.mean(current == video[donor])),
        "own": float(np.mean(current == video)),
    }


def _standardised(
    encoded: Mapping[str, Encodings], split: str, modality: str, kind: str
) -> ndarray:
    mean, deviation = scale_of(encoded["head"].features(modality, kind))
    return (encoded[split].features(modality, kind) - mean) / deviation


def logged(fused: pathlib.Path, unfused: pathlib.Path, warmup: int) -> dict[str, Any]:
    """Returns how much better the fused run looks in its log.

    `last`: values of the last validation, fused and unfused. `higher_accuracy` and
    `lower_loss`: at which share of the logged steps after the warm-up.
    """
    logs = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (fused, unfused)
    ]
    last = [[row for row in log if row["split"] == "validation"][-1] for log in logs]
    trained = [
        {row["step"]: row for row in log if row["split"] == "train"} for log in logs
    ]
    steps = sorted(s for s in set(trained[0]) & set(trained[1]) if s > warmup)
    pairs = [(trained[0][step], trained[1][step]) for step in steps]
    return {
        "last": {name: [row.get(name) for row in last] for name in (*LOGGED, CPC_LOSS)},
        "steps": len(steps),
        "higher_accuracy": float(
            np.mean([a[CPC_ACCURACY] > b[CPC_ACCURACY] for a, b in pairs])
        ),
        "lower_loss": float(np.mean([a[CPC_LOSS] < b[CPC_LOSS] for a, b in pairs])),
    }


def page(report: Mapping[str, Any]) -> str:
    """Returns the tables as Markdown."""
    kinds = list(report["scores"])
    rows = [
        [text, *(_cell(report["scores"][kind][name]) for kind in kinds)]
        for name, text in ROWS.items()
    ]
    alike = [
        [name, f"{own['donor']:.3f}", f"{own['own']:.3f}"]
        for name, own in report["follows"].items()
    ]
    log = report["log"]
    seen = [
        [f"`{name}`", *("" if v is None else f"{v:.3f}" for v in values)]
        for name, values in log["last"].items()
    ]
    return "\n".join(
        [
            "# A control that must fail: the current sees the video",
            "",
            f"Made by `scripts/fusion_control.py`: {report['windows']} windows of "
            f"{report['recordings']} recordings that no run has seen, one seed, step "
            f"{report['step']}. Intervals: 95 %, over recordings.",
            "",
            table(["balanced accuracy, head on the video", *kinds], rows),
            "The current beside the donor's video: how often its answer and its codes "
            "are those of the donor's video, and of its own:",
            "",
            table(["equal to", "donor's video", "own video"], alike),
            f"After the warm-up the fused run's `{CPC_ACCURACY}` is higher at "
            f"{log['higher_accuracy']:.2f} of {log['steps']} logged steps, and its "
            f"`{CPC_LOSS}` lower at {log['lower_loss']:.2f}.",
            "",
            table(["last validation", "fused", "unfused"], seen),
            f"**{CONCLUSION}**",
            "",
        ]
    )


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['balanced_accuracy']:.3f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Trains the control if need be, measures, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("unfused", type=pathlib.Path, help="a run of the recipe")
    parser.add_argument("--fused", type=pathlib.Path, required=True, help="its folder")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    keep_compiled_programs()

    unfused = restore.open_run(arguments.unfused, "latest")
    config = unfused.config.copy_and_resolve_references()
    load_file(CONFIGS / "systems.py").CONTROLS["fused_control"](config)
    _, summary = train(config, arguments.fused)
    if not summary["finished"]:
        raise SystemExit("asked to stop; the same command continues")
    fused = restore.open_run(arguments.fused, "latest")

    judged = Judged.of(unfused, config.seed)
    report = {
        "conclusion": CONCLUSION,
        "step": fused.step,
        "windows": len(judged.test),
        "recordings": len(judged.test.recordings),
        **judged.measure(Encoder(fused), Encoder(unfused)),
        "log": logged(fused.path, unfused.path, config.optimizer.warmup_steps),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, report)
    write_text(arguments.out.with_suffix(".md"), page(report))
    print(page(report))


if __name__ == "__main__":
    main()
