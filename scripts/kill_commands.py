"""The commands that kill_test.py kills: how they start and how outputs are compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import random
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorflow_datasets as tfds
import tiny_alarm
from PIL import Image

from fmalign_jax.alarm import alarm_file

Content = np.ndarray | bytes | str
Outputs = dict[str, Content]

UNDISTURBED = "undisturbed"
LOG = "readings.csv"
LINES = 8000
GROWS_S = 1.5
"""How long the input of a monitor grows; half of it is there at the start."""

STEPS = 40
_MODEL = (
    "checkpoint_every_steps=5",
    "data.stride_ticks=2",
    "model.width=16",
    "model.transformer.ffn=32",
    "model.transformer.layers=0",
    "model.modalities.video.stem.features=(8, 8)",
    "model.modalities.video.stem.strides=(8, 2)",
    "model.modalities.video.specific.features=(8,)",
    "model.modalities.current.stem.features=(16, 16)",
    "objectives.cross_cpc.width=16",
    "objectives.reconstruction.weight=0.0",
    "objectives.window_contrast.weight=0.0",
)
"""What makes the smoke config still smaller."""

_CHANGES = {"seconds", "windows_per_s", "waiting_share", "numBytes"}
"""Fields that tell how long something took, or how small the same values were packed,
which differs between undisturbed runs too."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      arguments: what follows ``python -m fmalign_jax.``, by (WORK, folder of outputs).
      result: what is written last, as a pattern of files below the folder.
      begun: regular expression of what it says when its work begins.
      after_kill: names of outputs, by (folder, undisturbed outputs), that must not be
        as a kill left them.
      needs: commands whose undisturbed run it reads.
      steps: of training, which later starts go on with; 0: each start begins anew.
      status: with which it ends.
    """

    arguments: Callable[[pathlib.Path, pathlib.Path], list[str]]
    result: str
    begun: str
    after_kill: Callable[[pathlib.Path, Outputs], list[str]]
    needs: tuple[str, ...] = ()
    steps: int = 0
    status: int = 0


def saved_step(folder: pathlib.Path) -> int:
    """Returns the step of the last checkpoint, 0 without any."""
    return max(_steps(folder / "checkpoints"), default=0)


def _steps(checkpoints: pathlib.Path) -> list[int]:
    names = [path.name for path in checkpoints.glob("[0-9]*")]
    return sorted(int(name) for name in names if name.isdigit())


def said(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file that holds what all starts in a folder said."""
    return folder.with_name(f"{folder.name}.txt")


def outputs(folder: pathlib.Path) -> Outputs:
    """Returns all that a command left in a folder, without times and places.

    Of stored recordings the values; of the checkpoints the numbers of all and the
    arrays of the last; JSON without what tells how long it took; of a monitor the
    alarms that it rang too. All other visible files as they are, but for TensorBoard's,
    which hold the same as metrics.jsonl, with times.
    """
    found: Outputs = {}
    for path in _visible(folder):
        name = str(path.relative_to(folder))
        if "tensorboard" in path.parts or "checkpoints" in path.parts:
            continue
        if path.name == "dataset_info.json":
            found[f"{name}/records"] = _records(path.parent)
        if ".array_record" in path.name:
            continue  # another process orders the fields of a record differently
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text().replace(str(folder), "FOLDER")
            whole = [text] if path.suffix == ".json" else text.splitlines()
            timeless = [_without_times(json.loads(one)) for one in whole]
            found[name] = json.dumps(timeless, sort_keys=True)
        else:
            found[name] = path.read_bytes()
    for checkpoints in sorted(folder.glob("**/checkpoints")):
        found |= _saved(checkpoints, str(checkpoints.relative_to(folder)))
    if LOG in found:
        rung = re.findall(
            r"^.*(?:ALARM,|alarm cleared).*$", said(folder).read_text(), re.M
        )
        found["alarms rung"] = "\n".join(rung)
    return found


def _visible(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            yield path


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _CHANGES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _records(folder: pathlib.Path) -> str:
    """Returns a digest of all values in a folder of tensorflow-datasets."""
    digest = hashlib.sha256()
    for record in tfds.builder_from_directory(folder).as_data_source(split="train"):
        for name, value in sorted(record.items()):
            array = np.asarray(value)
            about = f"{name} {array.dtype} {array.shape}"
            digest.update(about.encode() + array.tobytes())
    return digest.hexdigest()


def _saved(checkpoints: pathlib.Path, name: str) -> Outputs:
    """Returns the steps of all checkpoints, and what the last one holds."""
    steps = _steps(checkpoints)
    found: Outputs = {f"{name}/steps": str(steps)}
    last = checkpoints / str(steps[-1])
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for item in ("model", "optim"):
            tree = checkpointer.restore(last / item)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found[f"{name}/{item}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        position = checkpointer.restore(last / "data", args=ocp.args.JsonRestore())
        found[f"{name}/data"] = json.dumps(position, sort_keys=True)
    return found


def differences(
    found: Mapping[str, Content], expected: Mapping[str, Content]
) -> list[str]:
    """Returns the names of what is not the same, bit for bit."""
    names = found.keys() | expected.keys()
    return sorted(n for n in names if not _same(found.get(n), expected.get(n)))


def _same(a: Content | None, b: Content | None) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def unreadable(folder: pathlib.Path) -> list[str]:
    """Returns the results in a folder that cannot be read: they are half written."""
    found = []
    for path in _visible(folder):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == alarm_file.SUFFIX:
                alarm_file.load(path)
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    [arrays[name] for name in arrays.files]
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
        except (ValueError, OSError, EOFError, SyntaxError, zipfile.BadZipFile):
            found.append(str(path.relative_to(folder)))
    return found


def leftovers(folder: pathlib.Path) -> list[str]:
    """Returns the hidden files that killed starts left in a folder and beside it.

    Locks and who holds them lie there after an undisturbed run too.
    """
    beside = [*folder.parent.glob(f".{folder.name}*"), *folder.rglob(".*")]
    return sorted(p.name for p in beside if p.suffix not in (".lock", ".writer"))


def only_readable(folder: pathlib.Path, expected: Outputs) -> list[str]:
    """A run under way: what is there can be read."""
    del expected
    return unreadable(folder)


def whole_or_absent(folder: pathlib.Path, expected: Outputs) -> list[str]:
    """Results: what is there is what an undisturbed run gives."""
    halves = unreadable(folder)
    if halves:
        return halves
    found = outputs(folder)
    return sorted(n for n in found if not _same(found[n], expected.get(n)))


def begins_the_same(folder: pathlib.Path, expected: Outputs) -> list[str]:
    """A log: what is there is how the undisturbed one begins."""
    log, whole = folder / LOG, expected[LOG]
    assert isinstance(whole, bytes)
    found = log.read_bytes() if log.exists() else b""
    return [] if whole.startswith(found) else [LOG]


def _config(prefix: str, *settings: str) -> list[str]:
    return [f"--{prefix}.{setting}" for setting in settings]


def _data(prefix: str, folder: pathlib.Path) -> list[str]:
    places = f"data.path={folder / 'raw'}", f"data.prepared_dir={folder / 'prepared'}"
    return _config(prefix, *places)


def _prepare(work: pathlib.Path, folder: pathlib.Path) -> list[str]:
    del work
    return [
        "prepare",
        "--config",
        "configs/pretrain.py:smoke",
        *_data("config", folder),
    ]


def _train(work: pathlib.Path, folder: pathlib.Path) -> list[str]:
    return [
        *("train", "--config", "configs/pretrain.py:smoke", "--workdir", str(folder)),
        *_data("config", work / "prepare" / UNDISTURBED),
        *_config("config", f"max_steps={STEPS}", "eval_every_epochs=2.0", *_MODEL),
    ]


def _sweep(work: pathlib.Path, folder: pathlib.Path) -> list[str]:
    return [
        *("sweep", "--config", "configs/sweep.py:smoke", "--workdir", str(folder)),
        *_data("config.run", work / "prepare" / UNDISTURBED),
        *_config("config.run", f"max_steps={STEPS}", "eval_every_epochs=2.0", *_MODEL),
        *_config("config.vary", "data.lead_s=(0.0, 240.0)", "seed=(0,)"),
    ]


def _of_run(name: str, *settings: str) -> Callable[..., list[str]]:
    def arguments(work: pathlib.Path, folder: pathlib.Path) -> list[str]:
        run = work / "train" / UNDISTURBED
        return [
            *(name, "--config", f"configs/{name}.py", "--workdir", str(folder)),
            *_config("config", f"checkpoint={run}", "bootstrap_draws=50", *settings),
        ]

    return arguments


def _monitor(work: pathlib.Path, folder: pathlib.Path) -> list[str]:
    alarm, table = work / "monitor" / "alarm.fmalign", folder.with_suffix(".csv")
    if not alarm.exists():
        tiny_alarm.write_alarm(alarm)
    folder.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        _begin_to_write(table)
    return [
        *("monitor", "--alarm", str(alarm), "--input", str(table), "--follow"),
        *("--log", str(folder / LOG), "--give_up_after", "0.7"),
    ]


def _begin_to_write(table: pathlib.Path) -> None:
    """Writes half of the input at once, the rest bit by bit, cut anywhere."""
    content = "".join(tiny_alarm.lines(LINES)).encode()
    half = len(content) // 2
    table.write_bytes(content[:half])

    def write() -> None:
        moments = random.Random(str(table))
        cuts = sorted(moments.sample(range(half, len(content)), 29))
        with table.open("ab", buffering=0) as file:
            for begin, end in zip([half, *cuts], [*cuts, len(content)], strict=True):
                time.sleep(GROWS_S / 30)
                file.write(content[begin:end])

    threading.Thread(target=write, daemon=True).start()


COMMANDS = {
    "prepare": Command(
        _prepare,
        "prepared/simulated*",
        "simulating|preparing|windows split",
        whole_or_absent,
    ),
    "monitor": Command(
        _monitor,
        LOG,
        r"  (normal|ALARM)|going on after",
        begins_the_same,
        status=3,  # --give_up_after
    ),
    "lead_time": Command(
        _of_run("lead_time", "most_lead_s=120.0", "null_draws=20"),
        "lead_time.json",
        "windows split",
        whole_or_absent,
        needs=("prepare", "train"),
    ),
    "early_warning": Command(
        _of_run("early_warning", "oracle_epochs=0", "levels=10"),
        "early_warning.json",
        "windows split",
        whole_or_absent,
        needs=("prepare", "train"),
    ),
    "evaluate": Command(
        _of_run("evaluate", "oracle_epochs=0", "random_encoders=1"),
        "eval.json",
        "windows split",
        whole_or_absent,
        needs=("prepare", "train"),
    ),
    "train": Command(
        _train,
        "summary.json",
        r"(?:starting|resuming) at step \d+",
        only_readable,
        needs=("prepare",),
        steps=STEPS,
    ),
    "sweep": Command(
        _sweep,
        "sweep.json",
        r"(?:starting|resuming) at step \d+",
        only_readable,
        needs=("prepare",),
        steps=STEPS,
    ),
}
"""By name, the cheapest first."""
