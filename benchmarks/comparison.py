"""Measures the way to a first result with this package, and beside it with anomalib.

    python3 -m venv theirs && theirs/bin/pip install 'anomalib[cpu]'
    python benchmarks/comparison.py --ours venv/bin/python --theirs theirs/bin/python \\
        --out benchmarks/results/comparison.json

Each stage is a shell command or a snippet of Python, as the documentation of its
package has it, in a process and a folder of its own, with empty caches; `--isolated`
also takes the network away (Linux, `unshare`). Names that a process asks the network
for are recorded by Python's audit events. `--only ours/first` runs some stages and
keeps the others of the file, so that a long measurement can be made in parts. Lines are
counted in the snippets that run. What the numbers mean is in docs/comparison.md.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import Any

PACKAGES = {"ours": "fmalign_jax", "theirs": "anomalib"}
"""The distribution of each side."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Something that is measured, of one side.

    Attributes:
      commands: shell commands; `{python}` and `{bin}` are the environment's.
      code: Python that runs after them, the API that is counted.
      source: where the package's documentation says so.
      needs: the stage whose folder it goes on in; its time is not counted again.
      own: whether it works on the user's folders.
    """

    commands: tuple[str, ...] = ()
    code: str = ""
    source: str = ""
    needs: str = ""
    own: bool = False


OUR_TRAINING = (
    "{bin}/fmalign train pretrain:smoke+recordings --workdir=runs/first "
    "--data.path=recordings --data.lead_s=240 --max_steps=8 "
    "--model.transformer.layers=0 --objectives.reconstruction.weight=0 "
    "--objectives.window_contrast.weight=0"
)
"""That of the first notebook: eight steps, whose numbers mean nothing."""

THEIR_FIRST = """\
from anomalib.data import MVTecAD
from anomalib.models import Patchcore
from anomalib.engine import Engine

datamodule = MVTecAD()
model = Patchcore()
engine = Engine()
engine.fit(datamodule=datamodule, model=model)
"""

THEIR_OWN = """\
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim

datamodule = Folder(
    name="own", root="images", normal_dir="normal", abnormal_dir="abnormal"
)
model = Padim()
engine = Engine()
engine.fit(datamodule=datamodule, model=model)
predictions = engine.predict(datamodule=datamodule, model=model)
"""

THEIR_CHECKPOINT = "results/Padim/own/latest/weights/lightning/model.ckpt"

THEIR_PREDICTION = f"""\
from anomalib.engine import Engine
from anomalib.models import Padim

engine = Engine()
predictions = engine.predict(
    model=Padim(), data_path="images/abnormal", ckpt_path="{THEIR_CHECKPOINT}"
)
"""

OUR_PREDICTION = """\
import fmalign_jax as fm

run = fm.load("runs/first")
encoded = run.encode("recordings")
"""


def without_weights(code: str) -> str:
    """Returns a snippet of anomalib whose backbone is not pre-trained."""
    return code.replace("Padim()", "Padim(pre_trained=False)")


_SAMPLE = "\"$({python} -c 'import fmalign_jax as fm; print(fm.sample())')\""

STAGES: Mapping[str, Stage] = {
    "ours/import": Stage(code="import fmalign_jax\n", source="docs/api.md"),
    "ours/ready": Stage(
        code="import fmalign_jax as fm\nfm.load\nfm.CodeFeatures\n",
        source="docs/api.md",
    ),
    "ours/help": Stage(("{bin}/fmalign --help",), source="README.md"),
    "ours/first": Stage(
        (f"{{bin}}/fmalign check {_SAMPLE}",), source="docs/check.md, docs/api.md"
    ),
    "ours/own": Stage(
        ("{bin}/fmalign check recordings/",), source="README.md", own=True
    ),
    "ours/trained": Stage(
        (OUR_TRAINING,),
        OUR_PREDICTION,
        "docs/notebooks/first_alignment.md",
        own=True,
    ),
    "theirs/import": Stage(code="import anomalib\n", source="anomalib README"),
    "theirs/ready": Stage(
        code="from anomalib.engine import Engine\nfrom anomalib.models import Padim\n",
        source="anomalib README",
    ),
    "theirs/help": Stage(("{bin}/anomalib --help",), source="anomalib README"),
    "theirs/first": Stage(code=THEIR_FIRST, source="anomalib README"),
    "theirs/own": Stage(code=THEIR_OWN, source="anomalib, data.Folder", own=True),
    "theirs/trained": Stage(
        code=without_weights(THEIR_OWN),
        source="the same, pre_trained=False",
        own=True,
    ),
    "theirs/prediction": Stage(
        code=without_weights(THEIR_PREDICTION),
        source="anomalib, Engine.predict",
        needs="theirs/trained",
    ),
}
"""What is run, by `side/stage`. `own` and `trained` lie on the user's folders."""

HOOK = """\
import os, sys

def _note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in ("", "None", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["HOSTS_ASKED"], "a") as file:
            file.write(host + "\\n")

sys.addaudithook(_note)
"""
"""The sitecustomize of every process: notes who is asked on the network."""

OWN_FOLDERS = """\
import csv, pathlib, shutil, sys
import av, fmalign_jax as fm

folder = pathlib.Path(sys.argv[1])
shutil.copytree(fm.sample(), folder / "recordings")
rows = list(csv.DictReader(open(fm.sample() / "furnace_1.labels.csv")))
counts = {"normal": 0, "semi-molten": 0}
names = {"normal": "normal", "semi-molten": "abnormal"}
for name in names.values():
    (folder / "images" / name).mkdir(parents=True)
for frame in av.open(str(fm.sample() / "furnace_1.mp4")).decode(video=0):
    seconds = float(frame.time)
    label = [row["label"] for row in rows if float(row["time"]) <= seconds][-1:]
    if not label or label[0] not in counts or counts[label[0]] == 24:
        continue
    counts[label[0]] += 1
    path = folder / "images" / names[label[0]] / f"{seconds:06.1f}.png"
    frame.to_image().save(path)
print(counts)
"""
"""Makes a user's folders: recordings for us; 24 + 24 of their frames for anomalib."""

SIZE = """\
import importlib.metadata as metadata, importlib.util, json, pathlib, sys
from packaging.requirements import Requirement

found, missing, todo = {}, set(), [(sys.argv[1], "")]
done = set()
while todo:
    name, extra = todo.pop()
    if (name.lower(), extra) in done:
        continue
    done.add((name.lower(), extra))
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        missing.add(name)
        continue
    files = [f.locate() for f in distribution.files or () if f.suffix != ".pyc"]
    found[distribution.name] = sum(f.stat().st_size for f in files if f.exists())
    for line in distribution.requires or ():
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            todo += [(needed.name, e) for e in ("", *needed.extras)]
spec = importlib.util.find_spec(sys.argv[1])
home = pathlib.Path(spec.origin).parent
found[sys.argv[1]] = sum(
    f.stat().st_size
    for f in home.rglob("*")
    if f.is_file() and "__pycache__" not in f.parts
)
print(json.dumps({
    "version": metadata.version(sys.argv[1]),
    "packages": len(found),
    "megabytes": round(sum(found.values()) / 1e6),
    "own_megabytes": round(found[sys.argv[1]] / 1e6, 1),
    "versions": {
        name: metadata.version(name)
        for name in ("jax", "numpy", "torch", "torchvision", "lightning", "timm")
        if name in found
    },
    "missing": sorted(missing),
    "largest": {
        name: round(size / 1e6)
        for name, size in sorted(found.items(), key=lambda item: -item[1])[:5]
    },
}))
"""
"""Sizes of a package and of all that it requires, without its extras."""


def statements(code: str) -> int:
    """Returns how many statements a snippet has, however it is wrapped.

    Blank lines, comments and docstrings are none; a body counts each of its own.
    """
    return sum(
        isinstance(node, ast.stmt)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.walk(ast.parse(code))
    )


def main() -> None:
    """Runs the stages that are asked for and writes them into the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ours", type=pathlib.Path, help="a Python with fmalign_jax")
    parser.add_argument("--theirs", type=pathlib.Path, help="a Python with anomalib")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a .json file")
    parser.add_argument("--only", nargs="*", choices=(*STAGES, "size"), default=())
    parser.add_argument("--isolated", action="store_true", help="without a network")
    arguments = parser.parse_args()
    pythons = {
        side: getattr(arguments, side).absolute()  # a venv's link must stay one
        for side in PACKAGES
        if getattr(arguments, side)
    }
    if "ours" not in pythons:
        parser.error("--ours is needed; got none; its sample makes the user's folders")
    if arguments.isolated and not shutil.which("unshare"):
        parser.error("--isolated needs the command unshare; got a system without it")
    wanted = set(arguments.only or STAGES)
    wanted |= {STAGES[name].needs for name in wanted & set(STAGES)}
    chosen = [
        name for name in STAGES if name.partition("/")[0] in pythons and name in wanted
    ]
    if not arguments.only or "size" in arguments.only:
        for side, python in pythons.items():
            about = [python, "-c", SIZE, PACKAGES[side]]
            size = subprocess.run(about, check=True, capture_output=True, text=True)
            _write(arguments.out, "size", {side: json.loads(size.stdout)})
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            found = run(name, pythons, pathlib.Path(folder), arguments.isolated)
            _write(arguments.out, "stages", {name: found})
            print(f"{name}: {found['cpu_s']} s of CPU", flush=True)
    for row in measured(json.loads(arguments.out.read_text())):
        print(f"| {' | '.join(row)} |")


def run(
    name: str,
    pythons: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    isolated: bool,
) -> dict[str, Any]:
    """Returns what a stage took, whom it asked, and how it ended.

    Args:
      name: of the stage.
      pythons: the interpreter of each side.
      folder: of all stages; each works in one of its own.
      isolated: whether it runs without a network.
    """
    stage = STAGES[name]
    side = name.partition("/")[0]
    home = folder / (stage.needs or name)
    home.mkdir(parents=True, exist_ok=True)
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    asked = home / "asked.txt"
    asked.unlink(missing_ok=True)
    environment = _environment(folder / "hook", home, asked)
    if stage.own and not (home / "images").exists():
        own = [pythons["ours"], "-c", OWN_FOLDERS, home]
        subprocess.run(own, check=True, stdout=subprocess.DEVNULL)
    python = pythons[side]
    places = {"python": python, "bin": python.parent}
    steps: list[list[Any]] = [
        ["bash", "-c", command.format(**places)] for command in stage.commands
    ]
    if stage.code:
        (home / "snippet.py").write_text(stage.code)
        steps.append([python, "snippet.py"])
    alone = ["unshare", "--map-root-user", "--net"] if isolated else []
    took: list[dict[str, float]] = []
    for step in steps:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started_s = time.perf_counter()
        done = subprocess.run(
            [*alone, *step], cwd=home, env=environment, capture_output=True, text=True
        )
        wall_s = time.perf_counter() - started_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        took.append({"wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)})
        if done.returncode:
            break
    hosts = sorted(set(asked.read_text().split())) if asked.exists() else []
    found: dict[str, Any] = {
        "commands": [
            command.format(python="python", bin="bin") for command in stage.commands
        ],
        "code": stage.code,
        "lines": statements(stage.code),
        "source": stage.source,
        "steps": took,
        "wall_s": round(sum(step["wall_s"] for step in took), 2),
        "cpu_s": round(sum(step["cpu_s"] for step in took), 2),
        "ended_well": done.returncode == 0,
        "asked": hosts,
        "isolated": isolated,
        "date": datetime.date.today().isoformat(),
    }
    if done.returncode:
        found["last_words"] = (done.stderr.strip().splitlines() or [""])[-1][:300]
    return found


def _environment(
    hook: pathlib.Path, home: pathlib.Path, asked: pathlib.Path
) -> dict[str, str]:
    """Returns the variables of a stage: the hook, and caches that begin empty."""
    paths = [str(hook), os.environ.get("PYTHONPATH", "")]
    caches = ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR")
    return os.environ | {
        **{name: str(home / "cache" / name.lower()) for name in caches},
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HOSTS_ASKED": str(asked),
    }


def _write(path: pathlib.Path, part: str, entries: Mapping[str, Any]) -> None:
    """Adds entries to a part of the file, which keeps the others."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found["machine"] = {"cpu_cores": os.cpu_count(), "system": platform.platform()}
    found[part] = found.get(part, {}) | dict(entries)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the rows of the page's table of numbers: what, ours, theirs.

    A stage that ended badly is "failed" after its seconds; one that was not run is
    "not measured", never a number.
    """
    stages, size = found.get("stages", {}), found.get("size", {})

    def seconds(name: str) -> str:
        stage = stages.get(name)
        if stage is None:
            return "not measured"
        cpu_s = f"{stage['cpu_s']:.{1 if stage['cpu_s'] >= 1 else 2}f}"
        return cpu_s + ("" if stage["ended_well"] else " (failed)")

    def last(name: str) -> str:
        stage = stages.get(name)
        if stage is None or not stage["ended_well"]:
            return "not measured"
        return f"{stage['steps'][-1]['cpu_s']:.1f}"

    def asked(side: str) -> str:
        own = [s for name, s in stages.items() if name.startswith(side)]
        if not own:
            return "not measured"
        return ", ".join(sorted({host for s in own for host in s["asked"]})) or "nobody"

    def large(side: str) -> str:
        if side not in size:
            return "not measured"
        return f"{size[side]['megabytes']} MB, {size[side]['packages']} packages"

    def lines(name: str) -> str:
        stage = STAGES[name]
        return f"{len(stage.commands)} + {statements(stage.code)}"

    pairs = [
        ("import, CPU s", seconds, "import", "import"),
        ("import of what predicts, CPU s", seconds, "ready", "ready"),
        ("`--help`, CPU s", seconds, "help", "help"),
        ("first result, CPU s", seconds, "first", "first"),
        ("own folder, nothing trained, CPU s", seconds, "own", ""),
        ("own folder, trained, defaults, CPU s", seconds, "", "own"),
        ("own folder, trained, in miniature, CPU s", seconds, "trained", "trained"),
        ("a prediction of a trained model, CPU s", last, "trained", "prediction"),
        ("commands + lines to a first result", lines, "first", "first"),
        ("commands + lines, own folder to a prediction", lines, "trained", "own"),
    ]
    rows = [
        (
            what,
            value(f"ours/{ours}") if ours else "-",
            value(f"theirs/{theirs}") if theirs else "-",
        )
        for what, value, ours, theirs in pairs
    ]
    rows += [
        (
            "lines from a trained model to a prediction",
            str(statements(OUR_PREDICTION)),
            str(statements(THEIR_PREDICTION)),
        ),
        ("installed, without extras", large("ours"), large("theirs")),
        ("asked on the network", asked("ours"), asked("theirs")),
    ]
    return rows


if __name__ == "__main__":
    main()
