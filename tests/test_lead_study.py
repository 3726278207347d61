"""The study of the lead: its cases have the leads it says, and its options count."""

import importlib
import json
import pathlib
import sys

import pytest
from ml_collections import ConfigDict
from test_lead_statistics import DATA, planted_clip

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"
TICK_S, TICKS = DATA["tick_s"], 600
PLANTED_S = (20.0, 36.0, 64.0)
ASKED = ("canonical", "association", "centred_cosine")


class _Run:
    """A run, as far as the study reads it."""

    path = pathlib.Path("run")
    config = ConfigDict({"data": DATA | {"lead_s": 240.0}})


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPTS))  # it uses what write_results has
        yield importlib.import_module("lead_study")


@pytest.fixture(scope="module")
def asked(study, folder):
    """The command on clips of known leads, and the file of its answers."""
    related = [
        planted_clip(round(lead_s / TICK_S), seed, n=TICKS)
        for seed, lead_s in enumerate(PLANTED_S)
    ]
    apart = [planted_clip(0, 9 + seed, n=TICKS, related=False) for seed in range(3)]
    pools = {
        "easy": study.Pool(related, PLANTED_S),
        study.NOTHING: study.Pool(apart, (0.0,) * len(apart)),
    }
    out = folder / "answers.json"
    command = ["study", "furnaces", "--run", "run", "--folder", str(folder)]
    command += ["--out", str(out), "--levels", *pools, "--indicators", *ASKED]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(study, "LEADS_S", (100.0,))
        patched.setattr(study, "SPREADS_S", (0.0,))
        patched.setattr(study.restore, "open_run", lambda *_: _Run)
        patched.setattr(study, "measured_response", lambda *_: None)
        patched.setattr(study, "load_pool", lambda run, level, *_: pools[level])
        patched.setattr(sys, "argv", command)
        study.main()
        yield out


@pytest.fixture(scope="module")
def cases(asked):
    """What was answered, by name of the case."""
    return {case["name"]: case for case in json.loads(asked.read_text())}


def test_every_level_asked_for_has_cases_with_the_indicators_asked_for(cases):
    assert {case["level"] for case in cases.values()} == {"easy", "no_precursor"}
    for case in cases.values():
        assert set(case["indicators"]) == set(ASKED)
    # What the study gives a chance of, as far as it was asked for.
    for own in (case["indicators"] for case in cases.values()):
        assert own["association"]["chance"] is not None
        assert own["centred_cosine"]["chance"] is None


def test_the_leads_of_the_cases_are_those_that_the_signals_have(cases, study):
    known = [case for case in cases.values() if case["lead_s"] is not None]
    kinds = [case["kind"] for case in known]
    assert (kinds.count("single"), kinds.count("group")) == (len(PLANTED_S), 1)
    for case in known:  # by single clips' own leads, by groups' clocks
        assert case["verdict"] == "lead found"
        assert study.covered(case, "canonical"), case["name"]
    groups = {case["lead_s"] for case in known if case["kind"] == "group"}
    assert groups == {100.0}
    assert {c["lead_s"] for c in known if c["kind"] == "single"} == set(PLANTED_S)


def test_strangers_have_no_lead(cases):
    apart = [case for case in cases.values() if case["lead_s"] is None]
    named = {case["name"].rsplit(" ", 1)[0] for case in apart}
    assert named == {
        f"{level} {what}"
        for level, what in (
            ("easy", "mismatched"),
            ("no_precursor", "nothing"),
            ("no_precursor", "mismatched"),
        )
    }
    refused = [case["verdict"] == "no lead found" for case in apart]
    assert sum(refused) >= len(refused) - 1  # one in twenty may look like a lead


def test_what_was_answered_is_not_searched_again(asked, study, monkeypatch):
    before = asked.read_bytes()
    monkeypatch.setattr(study, "answer", lambda *_: pytest.fail("searched again"))
    study.main()
    assert asked.read_bytes() == before


@pytest.mark.parametrize(
    ("estimate_s", "interval_s", "expected"),
    [
        (102.0, [101.0, 103.0], True),  # within a tick
        (103.0, [101.0, 104.0], False),
        (110.0, [100.0, 120.0], True),  # inside the interval
        (90.0, [80.0, 99.0], False),
    ],
)
def test_a_lead_is_recovered_to_a_tick_or_inside_the_interval(
    study, estimate_s, interval_s, expected
):
    own = {"estimate_s": estimate_s, "interval_s": interval_s}
    case = {"lead_s": 100.0, "tick_s": TICK_S, "indicators": {"canonical": own}}
    assert study.covered(case, "canonical") is expected
