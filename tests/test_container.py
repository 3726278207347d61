"""The Dockerfile fits the package: its Python, its extras, and what the wheel needs."""

import fnmatch
import importlib.util
import pathlib
import re
import tomllib

import pytest

from fmalign_jax.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGES = [ROOT / "docs" / name for name in ("sharing.md", "sharing.zh.md")]


def _argument(name):
    return re.search(rf"^ARG {name}=\"?([^\"\n]*)", DOCKERFILE, re.MULTILINE)[1]


def test_its_python_is_one_that_the_package_is_made_for():
    made_for = {
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    }
    assert _argument("PYTHON") in made_for


@pytest.mark.parametrize("page", [ROOT / "Dockerfile", *PAGES], ids=lambda p: p.name)
def test_the_extras_that_it_is_built_with_are_there(page):
    named = re.findall(r"EXTRAS=([\w,]+)", page.read_text(encoding="utf-8"))
    assert named
    known = set(PROJECT["project"]["optional-dependencies"])
    assert {extra for names in named for extra in names.split(",")} <= known
    assert _argument("EXTRAS") == ""


def _is_sent(path):
    """Says whether .dockerignore lets a path of the clone through, as Docker does."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        kept = pattern.startswith("!")
        pattern = pattern.removeprefix("!").removeprefix("**/")
        above = [path, *pathlib.PurePosixPath(path).parents][:-1]
        names = [str(p) for p in above]
        if line.startswith("**/"):
            names = [p.name for p in map(pathlib.PurePosixPath, names)]
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            sent = kept
    return sent


def test_what_the_wheel_is_made_of_is_sent_to_docker():
    project, wheel = PROJECT["project"], PROJECT["tool"]["hatch"]["build"]["targets"]
    wheel = wheel["wheel"]
    needed = ["pyproject.toml", project["readme"], *project["license-files"]]
    folders = [*wheel["packages"], *wheel["force-include"]]
    for folder in folders:
        files = [f for f in (ROOT / folder).rglob("*") if "__pycache__" not in f.parts]
        needed += [str(file.relative_to(ROOT)) for file in files]
    assert len(needed) > 100
    assert not [path for path in needed if not _is_sent(path)]


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", "runs/a/config.json", "tests/tiny.py", "data/x", "key.pem"),
        "fmalign_jax/run/__pycache__/packed.pyc",
    ],
)
def test_nothing_else_is_sent(path):
    assert not _is_sent(path)


def test_it_runs_as_nobody_special_and_starts_the_word():
    last = DOCKERFILE.rpartition("FROM ")[2]
    user = re.search(r"^USER (\S+)", last, re.MULTILINE)[1]
    assert f"useradd --system --no-create-home --uid 10001 {user}" in last
    assert 'ENTRYPOINT ["fmalign"]' in last
    assert PROJECT["project"]["scripts"] == {"fmalign": "fmalign_jax.__main__:main"}
    assert importlib.util.find_spec("fmalign_jax.__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_page_are_words(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    words = re.findall(r"^    docker run .*? fmalign_jax(?::\w+)? (\w+)", text, re.M)
    assert set(words) == {"train", "evaluate", "monitor"} <= set(COMMANDS)
