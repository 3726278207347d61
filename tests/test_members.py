"""Who the members of a sweep are, and what may differ between them."""

import re

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, strategies as st

from fmalign_jax import sweep
from fmalign_jax.config.commands import sweep_config
from fmalign_jax.sweeps import files, members
from fmalign_jax.sweeps.members import Member
from fmalign_jax.training import state

LEAD = "data.lead_s"


def test_every_combination_is_a_member():
    vary = {"seed": (0, 1), "data": {"lead_s": (60.0, 2.5)}, "optimizer": {"x": ()}}
    found = members.combinations(vary)
    assert [member.name for member in found] == [
        "seed=0_lead_s=60",
        "seed=0_lead_s=2.5",
        "seed=1_lead_s=60",
        "seed=1_lead_s=2.5",
    ]
    assert found[1].changes == {"seed": 0, LEAD: 2.5}
    weights = {"objectives": {"club": {"weight": (0.1,)}}}
    assert members.combinations(weights)[0].name == "club.weight=0.1"
    with pytest.raises(ValueError, match="several values; got none in vary"):
        members.combinations({"seed": ()})


def test_the_config_of_a_sweep_names_only_what_may_differ():
    config = sweep_config(tiny.tiny_config())
    named = members._flat(config.vary.to_dict())
    assert all(values == () for values in named.values())
    assert {"seed", LEAD, "objectives.cross_cpc.weight"} <= set(named)
    assert all(map(members._may_differ, named))


def test_the_command_trains_every_combination(monkeypatch, capsys):
    asked = []

    def train_together(config, members, workdir):
        asked.append((config.to_json(), [m.name for m in members], workdir))
        row = {"name": "a", "step": 4, "diverged": None, "validation": {"loss": 1.25}}
        return [], {"members": [row], "leads": {}}

    monkeypatch.setattr(sweep, "train_together", train_together)
    monkeypatch.setattr(sweep.cli, "workdir", lambda: None)
    monkeypatch.setattr(sweep.cli, "config_name", lambda: "sweep-tiny")
    config = sweep_config(tiny.tiny_config())
    config.vary.seed = (0, 1)
    sweep.main(config)
    config.run.max_steps = 5  # may change
    sweep.main(config)
    config.vary.seed = (0, 2)
    sweep.main(config)
    assert asked[0][:2] == (tiny.tiny_config().to_json(), ["seed=0", "seed=1"])
    assert asked[0][2].name.startswith("sweep-tiny-")
    assert asked[0][2] == asked[1][2] != asked[2][2]
    assert "1.25" in capsys.readouterr().out


@given(st.lists(st.integers(-5, 40), min_size=1, max_size=4))
def test_members_at_several_leads_read_what_all_of_them_can(leads_s):
    asked = [Member(str(i), {LEAD: float(s)}) for i, s in enumerate(leads_s)]
    for own, lead_s in zip(
        members.member_configs(tiny.tiny_config(), asked), leads_s, strict=True
    ):
        assert own.data.lead_s == lead_s
        assert set(own.data.other_leads_s) == {float(s) for s in leads_s} - {lead_s}


def test_a_member_is_the_config_with_its_changes():
    config = tiny.tiny_config()
    asked = [
        Member("a", {}),
        Member("b", {"seed": 3, "optimizer.learning_rate": 1, LEAD: 4.0}),
        Member("c", {"objectives.club.weight": 0.5}),
    ]
    plain, changed, weighted = members.member_configs(config, asked)
    assert config.to_json() == tiny.tiny_config().to_json()
    config.data.other_leads_s = (4.0,)
    assert plain.to_json() == config.to_json()
    assert (changed.seed, changed.optimizer.learning_rate) == (3, 1.0)
    assert weighted.objectives.club.weight == 0.5
    found = members.differing([plain, changed, weighted])
    np.testing.assert_array_equal(found.pop("seed"), [0, 3, 0])
    np.testing.assert_allclose(found.pop("objectives.club.weight"), [0.01, 0.01, 0.5])
    np.testing.assert_allclose(found.pop("optimizer.learning_rate"), [1e-3, 1, 1e-3])
    assert not found  # not the lead


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], r"needs members.*got \[\]"),
        ([Member("a/b", {})], r"letters, digits.*got \['a/b'\]"),
        ([Member("..", {})], r"letters, digits.*got \['\.\.'\]"),
        ([Member("a", {}), Member("a", {})], r"a name of its own.*got \['a'\]"),
        (
            [Member("a", {"codebook.codes": 20})],
            r"may differ in seed, optimizer.* data\.lead_s .* got codebook\.codes",
        ),
        (
            [Member("a", {"objectives.cross_cpc.steps": 3})],
            "got objectives.cross_cpc.steps",
        ),
        ([Member("a", {"objectives.nothing.weight": 1.0})], "got objectives.nothing"),
        ([Member("a", {"seed": "x"})], "seed must be a int; got 'x' for 'a'"),
        ([Member("a", {"seed": -1})], r"must lie in \[0, 2147483648\); got -1"),
        (
            [Member("a", {}), Member("b", {"objectives.club.weight": 0.0})],
            r"0 for all members or for none; got \[0\.0, 0\.01\] for objectives\.club",
        ),
    ],
)
def test_what_members_cannot_be_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        members.member_configs(tiny.tiny_config(), asked)


def test_settings_that_cannot_work_are_refused():
    config = tiny.tiny_config()
    config.codebook.decay = 1.0
    with pytest.raises(ValueError, match=re.escape("codebook.decay must lie")):
        members.member_configs(config, [Member("a", {})])


def test_a_trainer_under_trace_follows_the_values_it_is_given():
    config = tiny.tiny_config()
    config.optimizer.warmup_steps = 0
    config.optimizer.schedule = "constant"
    lengths = {"steps_per_epoch": 5, "steps": 10}
    seen = []

    plain = state.make_trainer(config, **lengths)

    @jax.jit
    def rate_and_weight(values):
        trainer = plain.with_numbers(values)
        seen.append(set(trainer.objectives.terms))
        return trainer.schedule(3), trainer.weights["club"], trainer.config.seed

    own = {"seed": 7, "optimizer.learning_rate": 0.5, "objectives.club.weight": 2.0}
    assert [float(x) for x in rate_and_weight(own)] == [0.5, 2.0, 7]
    rate_and_weight({**own, "seed": 8})
    assert len(seen) == 1  # compiled once
    assert seen[0] == set(plain.objectives.terms)
    assert plain.config.seed == 0


def _row(lead_s, bound, *, diverged=None, **changes):
    values = None if bound is None else {"cpc_bound": bound, "perplexity/video": 3.0}
    return {
        "name": f"lead_s={lead_s:g}",
        "changes": {LEAD: lead_s, **changes},
        "step": 4,
        "validation": values and values | {"loss": 1.0},
        "diverged": diverged,
    }


def test_a_sweep_over_leads_tells_where_each_indicator_is_highest(capsys):
    rows = [
        _row(240.0, 0.5, seed=0),
        _row(240.0, 0.9, seed=1),
        _row(0.0, 0.1, seed=0),
        _row(0.0, 0.2, seed=1),
        _row(420.0, 9.0, diverged="every value must be finite"),
        _row(120.0, None),
    ]
    found = files.curves_over_leads(rows)
    assert found["lead_s"] == [0.0, 240.0]
    assert found["curves"]["cpc_bound"] == pytest.approx([0.15, 0.7])
    assert "loss" not in found["curves"]  # of another task at every lead
    assert found["highest_at_s"]["cpc_bound"] == 240.0
    files.print_members({"members": rows, "leads": found})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:4] == ["highest", "at", "lead_s", "240"]
    assert files.curves_over_leads(rows[:2]) == {}
    assert files.curves_over_leads([{**rows[0], "changes": {"seed": 1}}]) == {}
