"""The comparison with anomalib: what is counted, and that its page says what is so."""

import json
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import comparison  # noqa: E402

RESULTS = json.loads((ROOT / "benchmarks" / "results" / "comparison.json").read_text())


def test_statements_are_counted_however_they_are_wrapped():
    assert comparison.statements("") == 0
    assert comparison.statements("import a\n\n# why\nb = a.c(1)  # so\n") == 2
    wrapped = (
        '"""Docstring."""\nb = call(\n    1,\n    two=2,\n)\nfor x in b:\n    x()\n'
    )
    assert comparison.statements(wrapped) == 3
    assert comparison.statements("a = 1; b = 2\n") == 2
    assert comparison.statements("a.load\n") == 1  # an expression counts


def test_what_is_counted_is_what_is_run():
    for name, stage in RESULTS["stages"].items():
        own = comparison.STAGES[name]
        assert stage["code"] == own.code, "measure it again"
        assert stage["lines"] == comparison.statements(own.code)
        assert len(stage["commands"]) == len(own.commands)
    assert "pre_trained=False" in comparison.STAGES["theirs/trained"].code


@pytest.mark.parametrize(
    ("code", "well", "asked"),
    [
        ("import fmalign_jax\n", True, []),
        (
            "import socket\nsocket.getaddrinfo('localhost', 80)\n"
            "socket.getaddrinfo('nobody.invalid', 80)\n",
            False,
            ["nobody.invalid"],
        ),
    ],
)
def test_a_stage_says_whom_it_asked(code, well, asked, tmp_path, monkeypatch):
    stages = {"ours/tiny": comparison.Stage(code=code)}
    monkeypatch.setattr(comparison, "STAGES", stages)
    pythons = {"ours": pathlib.Path(sys.executable)}
    found = comparison.run("ours/tiny", pythons, tmp_path, isolated=False)
    assert found["ended_well"] == well
    assert found["asked"] == asked
    assert ("gaierror" in found.get("last_words", "")) != well
    assert 0 < found["cpu_s"] < 60


def test_what_was_not_measured_has_no_number():
    stage = {"cpu_s": 1.25, "ended_well": False, "asked": ["b.org", "a.org"]}
    rows = comparison.measured({"stages": {"theirs/first": stage}})
    values = {what: (ours, theirs) for what, ours, theirs in rows}
    assert values["first result, CPU s"] == ("not measured", "1.2 (failed)")
    assert values["asked on the network"] == ("not measured", "a.org, b.org")
    assert values["installed, without extras"] == ("not measured", "not measured")


def _table(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = text.split("<!-- measured -->")[1].split("<!-- end -->")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_page_says_what_was_measured():
    rows = _table("comparison.md")
    assert [tuple(row[:3]) for row in rows] == comparison.measured(RESULTS)
    assert all(row[3] for row in rows)  # who is ahead, or why not

    def numbers(rows):
        return [re.findall(r"[\d.]+", " ".join(row[1:3])) for row in rows]

    assert numbers(_table("comparison.zh.md")) == numbers(rows)
