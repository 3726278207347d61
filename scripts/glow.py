"""Does the current say where on the video something glows? Writes what was found.

    python scripts/glow.py --run RUN --out docs/results/glow.json

The encoders of a run are frozen. Without labels: where on a frame does the encoder of
the video look, by itself and asked by the current? With the masks of the run's training
recordings: a small decoder from the stem's map and a query to a mask, trained with the
queries of one modality and asked with those of the other, on the recordings of its test
split. Masks are those of the simulator or of FMF-Benchmark. Beside FILE.json the same
is written as tables, FILE.md. docs/evaluation.md says what the numbers are.
"""

from __future__ import annotations

import argparse
import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from write_results import table

from fmalign_jax.cli import keep_compiled_programs
from fmalign_jax.data import dataset
from fmalign_jax.data.files import write_json, write_text
from fmalign_jax.evaluation import glow, localisation_metrics as metrics
from fmalign_jax.evaluation.glow import CURRENT, VIDEO, GlowFrames
from fmalign_jax.evaluation.pointing import looker
from fmalign_jax.evaluation.transfer import kinds_of_features
from fmalign_jax.run import restore
from fmalign_jax.run.frozen_encoder import FrozenEncoder
from fmalign_jax.training import sharding

METRICS = ("iou_glow", "iou_glow_hidden", "f_glow", "miou_fmf", "false_mask_share")


def measure(
    path: pathlib.Path, *, frames: int, steps: int, seeds: int, kind: str
) -> dict[str, Any]:
    """Returns what a run finds of the glow.

    Args:
      path: the run.
      frames: at most so many of the training and of the test split.
      steps: of a decoder.
      seeds: how many decoders of each kind.
      kind: of the features that ask, "codes" or "semantic"; empty for codes, if the
        run has any.

    Raises:
      ValueError: the run has no test split, its data have no masks, its system has no
        feature a tick or no such features, or its video no maps that choose cells.
    """
    run = restore.open_run(path)
    config = run.config
    # As many windows for testing as for training: frames are spread over them.
    config.data.eval_stride_ticks = config.data.stride_ticks
    masks = dataset.open_masks(config.data)
    mesh = sharding.make_mesh()
    encoder = FrozenEncoder(config, (VIDEO, CURRENT), mesh)
    system, frozen = encoder.system, restore.restore(run, mesh)
    kind = kind or ("codes" if system.has_codes else "semantic")
    if not system.slots_are_ticks or kind not in kinds_of_features(system):
        raise ValueError(
            f"{path}: a query is the {kind} of a tick; got {config.model.name}, which "
            "has none; use --features semantic, or a run whose features are of ticks"
        )
    alone = FrozenEncoder(config, (VIDEO,), mesh)
    look = looker(alone.system, VIDEO)

    def load(split: str) -> GlowFrames:
        store, windows = run.split(split)
        windows = windows.spread(frames)
        return glow.frames_of(
            windows,
            store,
            masks,
            encoder(frozen, store, windows, keep_semantic=True),
            kind,
            functools.partial(look, frozen, store, windows),
        )

    head, test = load("train"), load("test")
    for own, split in ((head, "training"), (test, "test")):
        if not own.glows.any():
            raise ValueError(
                f"{path}: some frames of the {split} split must show a glow; got "
                f"{len(own.masks)} without; use more of them (--frames)"
            )
    logging.info(
        "%d frames to learn from, %d to find", len(head.masks), len(test.masks)
    )
    random = glow.random_looks(alone, frozen, look, head, test)
    nothing = metrics.confusion(test.masks, np.zeros_like(test.masks))
    found = {
        "run": path.name,
        "step": run.step,
        "system": config.model.name,
        "features": kind,
        "lead_s": config.data.lead_s,
        "split_by": test.windows.by,
        "frames": {"head": _counts(head), "test": _counts(test)},
        "pointing": glow.point(test, head, random, seed=0),
        "decoder": glow.segment(head, test, steps=steps, seeds=seeds),
        "steps": steps,
        "decoders": seeds,
        "nothing": {"miou_fmf": metrics.both_classes_iou(nothing)},
    }
    return found | {
        "verdict": verdict(found["decoder"]["directions"]),
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
    }


def _counts(frames: GlowFrames) -> dict[str, float]:
    return {
        "frames": len(frames.masks),
        "recordings": len(np.unique(frames.recording)),
        "with_glow": int(frames.glows.sum()),
        "hidden": int(frames.hidden.sum()),
        "glow_pixels": float(frames.masks.mean()),
    }


def verdict(found: Mapping[str, Any]) -> dict[str, str]:
    """Returns in words whether the query matters, by direction."""
    return {direction: _in_words(own) for direction, own in found.items()}


def _in_words(own: Mapping[str, Any]) -> str:
    effect, gain = (
        own[name]["all"] and own[name]["all"]["interval"]
        for name in ("query_effect", "gain")
    )
    if not effect or not gain:
        return "too few recordings or states to say"
    if effect[0] <= 0:
        return "no effect of the query: this is plain video segmentation"
    if gain[0] <= 0:
        return (
            "a wrong query does harm, but the right one finds no more than decoders "
            "that never had one: the query adds nothing to plain video segmentation"
        )
    return "the query matters: the right one finds more than decoders without any"


def tables(found: Mapping[str, Any]) -> str:
    """Returns the same for reading."""
    test = found["frames"]["test"]
    pointing = [
        [name, _spread(own["game"]), _spread(own["auroc"])]
        for name, own in found["pointing"]["rows"].items()
    ]
    parts = [
        "# Where the glow is",
        f"Made by `scripts/glow.py` from the run `{found['run']}` "
        f"(`{found['system'].rpartition('.')[2]}`, step {found['step']}, queries: "
        f"{found['features']}, current read {found['lead_s']:g} s earlier). "
        f"{test['frames']} frames of {test['recordings']} test recordings, "
        f"{test['with_glow']} with a glow, {test['hidden']} of them hidden (the glow "
        "no brighter than what is around it, as by mist); "
        f"{test['glow_pixels']:.2%} of all pixels glow. {found['decoders']} decoders "
        f"of each kind, {found['steps']} steps each, fitted to "
        f"{found['frames']['head']['frames']} frames of "
        f"{found['frames']['head']['recordings']} other recordings. "
        "[evaluation.md](../evaluation.md#where-the-glow-is) says what is computed.",
        "## Pointing, without training",
        "Frames with a glow; mean over recordings [95 %].",
        table(["map", "pointing game", "AUROC of cells"], pointing),
        "## Decoder",
        f"Saying nothing has `miou_fmf` {found['nothing']['miou_fmf']:.3f}.",
    ]
    for direction, own in found["decoder"]["directions"].items():
        trained, _, tested = direction.partition("->")
        rows = [_cells(name, row) for name, row in own["rows"].items()]
        rows.append(_cells("never a query", found["decoder"]["plain"]))
        parts += [
            f"### Trained with queries of the {trained}, asked by the {tested}",
            table(["query", *(f"`{key}`" for key in METRICS)], rows),
            f"Query effect, right less other state: {_on(own['query_effect'])}. Gain, "
            f"right less never a query: {_on(own['gain'])}. "
            f"**In words: {found['verdict'][direction]}.**",
        ]
    return "\n\n".join(parts) + "\n"


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    values = [row[key] for key in METRICS]
    return [name, *("" if v is None else f"{v:.3f}" for v in values)]


def _on(values: Mapping[str, Any]) -> str:
    """Returns a difference on all frames with a glow, and on hidden ones."""
    return "; ".join(
        f"{frames} {_spread(value, sign='+')}" if value else f"{frames} unknown"
        for frames, value in values.items()
    )


def _spread(value: Mapping[str, Any], sign: str = "") -> str:
    interval: Sequence[float] | None = value["interval"]
    text = f"{value['mean']:{sign}.3f}"
    if interval is None:
        return text
    return f"{text} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=pathlib.Path, required=True, help="its folder")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    parser.add_argument("--frames", type=int, default=1000, help="of either split")
    parser.add_argument("--steps", type=int, default=300, help="of a decoder")
    parser.add_argument("--seeds", type=int, default=3, help="decoders of each kind")
    parser.add_argument("--features", default="", choices=("", "codes", "semantic"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_compiled_programs()
    found = measure(
        arguments.run,
        frames=arguments.frames,
        steps=arguments.steps,
        seeds=arguments.seeds,
        kind=arguments.features,
    )
    write_json(arguments.out, found)
    page = tables(found)
    write_text(arguments.out.with_suffix(".md"), page)
    print(page)


if __name__ == "__main__":
    main()
