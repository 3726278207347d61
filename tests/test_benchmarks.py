"""The benchmarks run, and say what they measured; no test here judges a speed."""

import argparse
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fmalign_jax.config import load_file

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import cases  # noqa: E402
import devices  # noqa: E402
import input_pipeline  # noqa: E402
import loop_throughput  # noqa: E402
import measure  # noqa: E402
import run_all  # noqa: E402
import step_throughput  # noqa: E402
import sweep_throughput  # noqa: E402


def test_spread_is_median_and_quartiles():
    found = measure.spread([0.001, 0.002, 0.003, 0.004, 0.1])
    assert found == {"median_ms": 3.0, "quartiles_ms": [2.0, 4.0], "calls": 5}


def test_flops_are_counted_as_often_as_a_loop_runs():
    x, w = jnp.ones((6, 8)), jnp.ones((8, 8))
    image, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))

    @jax.jit
    def program(x, w, image, kernel):
        looped, _ = jax.lax.scan(lambda c, _: (c @ w, None), x, length=7)
        numbers = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=numbers
        )
        return looped.sum() + maps.sum()

    jaxpr = jax.make_jaxpr(program)(x, w, image, kernel).jaxpr
    expected = 7 * 2 * 6 * 8 * 8 + 2 * (2 * 3 * 3 * 4) * (3 * 3 * 3)
    assert measure.matrix_flops(jaxpr) == expected


@pytest.mark.parametrize(
    ("torch_config", "asked", "batch"),
    [
        ("configs/pretrain.py", 4, 4),
        ("configs/pretrain.py:full", None, 32),  # 256 of its own
    ],
)
def test_pytorch_may_run_another_model(monkeypatch, torch_config, asked, batch):
    pytest.importorskip("torch")
    seen = []

    class Enough(Exception):
        pass

    def stepper(config):
        seen.append((config.model.modalities.video.specific.name, config.batch_size))
        if len(seen) == 2:
            raise Enough

    monkeypatch.setattr(step_throughput, "Stepper", stepper)
    arguments = argparse.Namespace(
        config="configs/pretrain.py:patches",
        torch_config=torch_config,
        weak=False,
        precision="fp32",
    )
    sizes = step_throughput.Sizes(devices=2, batch=asked)
    with pytest.raises(Enough):
        step_throughput.compare(arguments, sizes, "eager fp32")
    encoders = "fmalign_jax.models.encoders."
    names = [encoders + name for name in ("PatchSpecific", "ConvSpecific")]
    assert seen == [(name, batch) for name in names]


@pytest.mark.slow
def test_a_step_is_measured_at_the_size_that_was_asked_for(capsys):
    arguments = argparse.Namespace(
        config="configs/pretrain.py:smoke", weak=True, precision="fp32", budget_s=0.0
    )
    sizes = step_throughput.Sizes(devices=2, batch=4, ticks=10, codes=16)
    found = step_throughput.measure_step(arguments, sizes)
    assert (found["batch"], found["ticks"], found["codes"]) == (8, 10, 16)
    assert found["step"]["calls"] == 5
    assert found["windows_per_s"] == pytest.approx(
        8 / found["step"]["median_ms"] * 1e3, rel=1e-3
    )
    # Of one device: at least the patches of its 4 windows, there and back.
    patches = 4 * 10 * 16 * 16 * 48 * 16 * 2
    assert found["flops"] > 3 * patches
    assert found["memory_bytes"] > 4 * 10 * 64 * 64 * 3
    limits = {
        "matrix_fp32_flops": 1e12,
        "matrix_bf16_flops": 1e12,
        "memory_bytes_per_s": 1e10,
    }
    step_throughput.print_tables(
        {
            "config": arguments.config,
            "made_with": measure.provenance(),
            "limits": limits,
            "runs": [found],
            "torch": [],
        }
    )
    assert "| 2 | 8 | 10 | 16 |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_input_is_measured_beside_the_step(tmp_path):
    tiny.write_recordings(tmp_path / "raw", seed=3)
    config = tiny.tiny_config(tmp_path)
    config.update_from_flattened_dict(tiny.LIGHT)
    found = input_pipeline.measure_input(config, 4)
    assert found["pipeline_windows_per_s"] > 0
    assert 0 <= found["waiting_share"] <= 1
    ratio = found["pipeline_windows_per_s"] / found["step_windows_per_s"]
    assert found["ratio"] == pytest.approx(ratio)


@pytest.mark.slow
def test_the_loop_is_measured_in_four_ways(tmp_path, capsys):
    tiny.write_recordings(tmp_path / "raw", seed=3)
    config = tiny.tiny_config(tmp_path)
    config.update_from_flattened_dict(tiny.LIGHT)
    ways = loop_throughput.measure_ways(config, 2, steps=4, turns=3)
    kinds = [(way["resident"], way["steps_per_dispatch"]) for way in ways]
    assert kinds == [(False, 1), (False, 2), (True, 1), (True, 2)]
    assert all(way["step"]["calls"] == 3 for way in ways)
    assert all(0 <= way["waiting_share"] <= 1 for way in ways)
    found = {"config": "tiny", "batch": 4, "steps": 4, "ways": ways}
    loop_throughput.print_table({**found, "made_with": {"device": "cpu"}})
    printed = capsys.readouterr().out
    assert f"| on the device | 2 | {ways[3]['step']['median_ms']:.2f} (" in printed


def test_members_of_a_benchmark_differ_in_one_thing():
    leads = sweep_throughput.make_members(3, "lead")
    assert [m.changes["data.lead_s"] for m in leads] == [0.0, 210.0, 420.0]
    seeds = sweep_throughput.make_members(3, "seed")
    assert [m.changes for m in seeds] == [{"seed": seed} for seed in range(3)]


@pytest.mark.slow
def test_runs_together_are_measured_beside_runs_alone(tmp_path, capsys):
    config = tiny.tiny_config(tmp_path)
    config.update_from_flattened_dict(tiny.LIGHT)
    config.max_steps = 2
    members = sweep_throughput.make_members(2, "seed")
    names = ("jax_compilation_cache_dir", *sweep_throughput.CACHE_LIMITS)
    before = {name: getattr(jax.config, name) for name in names}
    try:
        found = sweep_throughput.measure_steps(config, members, budget_s=0.0)
        found |= sweep_throughput.measure_runs(config, members, alone=1)
    finally:
        sweep_throughput.forget_programs()
        for name, value in before.items():
            jax.config.update(name, value)
    alone, together = (found[f"step_{k}"]["median_ms"] for k in ("alone", "together"))
    assert found["step_ratio"] == pytest.approx(2 * alone / together)
    assert found["runs_per_hour_together"] == pytest.approx(7200 / found["together_s"])
    # One was run; the other is taken to be as long.
    assert found["runs_per_hour_alone"] == pytest.approx(3600 / found["alone_s"][0])
    about = {"config": "tiny", "members": 2, "by": "seed"}
    sweep_throughput.print_table({**about, "made_with": {"device": "cpu"}, **found})
    assert f"| {found['ratio']:.2f} |" in capsys.readouterr().out


def test_what_devices_report_is_compared_value_by_value(tmp_path, capsys):
    one = [{"step": k, "split": "train", "loss": 10.0, "part": 0.5} for k in (1, 2, 3)]
    two = [row | {"windows_per_s": 7.0} for row in one]
    two[1] = two[1] | {"loss": 10.5, "part": 0.9}
    rows = devices.differences(one, two)
    assert [row["largest"] for row in rows] == pytest.approx([0.0, 0.4, 0.0])
    assert [row["loss"] for row in rows] == pytest.approx([0.0, 0.05, 0.0])
    assert rows[1]["of"] == "part"
    found = {"config": "tiny", "flags": [], "differences": {"2": rows}}
    devices.print_table(found)
    assert "| 2 | 1 to 3 | 5.0e-02 | 4.0e-01 | `part` |" in capsys.readouterr().out
    losses = {"1": [10.0] * 3, "2": [10.0, 10.5, 10.0]}
    devices.draw(found | {"loss": losses}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_devices_are_compared_in_double_precision_too(tmp_path):
    tiny.tiny_config(tmp_path)
    config = f"{tiny.__file__}:{tmp_path}"
    one, two = (
        devices.train(
            config,
            count,
            [*tiny.LIGHT_FLAGS, "--config.max_steps=3"],
            tmp_path / str(count),
            program=devices.DOUBLE,
        )
        for count in (1, 2)
    )
    last = one[-1]["loss"]
    assert float(np.float32(last)) != last  # has more digits
    found = devices.differences(one, two)
    assert max(row["largest"] for row in found) < 1e-12


@pytest.mark.parametrize(("platform", "count"), [("cpu", 1), ("gpu", 2)])
def test_all_benchmarks_are_planned_for_the_machine(platform, count):
    planned = run_all.jobs(platform, count)
    shared = {"paper", "furnace", "loop", "compile time", "growth in batch"}
    assert shared <= set(planned)
    for command in planned.values():
        script, *options = [part for part in command if not part.startswith("XLA_")]
        text = (BENCHMARKS / script).read_text()
        for option in (part for part in options if part.startswith("--")):
            named = {f'"{option}"', f'"{option[2:]}"'}  # some are declared in a loop
            assert any(name in text for name in named), option
    scaling = planned["strong scaling"]
    assert scaling[scaling.index("--devices") + 1] == (
        "1,2,4,8" if platform == "cpu" else "1,2"
    )


def test_on_a_gpu_every_system_and_every_kind_of_graph_is_planned():
    planned = run_all.jobs("gpu", 1)
    systems = load_file(BENCHMARKS.parent / "configs/systems.py").SYSTEMS
    assert {f"system {name}" for name in systems} <= set(planned)
    assert next(iter(planned)) == "furnace bf16"  # what is worth most comes first
    flags = [c[0] for name, c in planned.items() if "graphs" in name]
    assert len(set(flags)) == len(run_all.GRAPHS) > 4
    assert not any("COLLECTIVES" in f for f in flags)
    assert all("during_profiling" in f for f in flags)


def test_a_command_may_begin_with_a_variable(monkeypatch):
    seen = {}

    def started(command, *, env, **_):
        seen.update(command=command, flags=env["XLA_FLAGS"])
        pathlib.Path(command[-1]).write_text('{"made_with": {}}')

    monkeypatch.setenv("XLA_FLAGS", "--one")
    monkeypatch.setattr(run_all.subprocess, "run", started)
    found = run_all.run(["XLA_FLAGS=--two --three=+A", "step_throughput.py", "--parts"])
    assert seen["flags"] == "--one --two --three=+A"
    assert seen["command"][1].endswith("step_throughput.py")
    assert found["command"].startswith("'XLA_FLAGS=--two --three=+A' step")


@pytest.mark.slow
def test_every_part_of_a_step_is_timed():
    config = cases.load_config("configs/pretrain.py:smoke")
    found = step_throughput.parts(config, budget_s=0.0)
    expected = {"normalise and augment", "encoders", "critics", "optimiser"}
    assert expected | {"model state", "loss cross_cpc"} <= set(found)
    assert all(times["median_ms"] > 0 for times in found.values())


def test_kernels_are_counted_on_the_planes_of_the_device():
    program = jax.jit(lambda x: (x @ x).sum())
    x = jax.numpy.ones((64, 64))
    assert measure.kernels(lambda: program(x)) is None  # there is no GPU here
    found = measure.kernels(lambda: program(x), calls=2, planes="/host:CPU")
    assert found["kernels"] >= 1
    assert found["kernel_ms"] > 0


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    out = tmp_path / "all.json"
    asked = []

    def run(command):
        asked.append(command[0])
        if len(asked) == 2:
            raise subprocess.CalledProcessError(3, command)
        return {"command": " ".join(command)}

    monkeypatch.setattr(run_all, "run", run)
    monkeypatch.setattr(run_all, "machine", lambda: ("cpu", 1))
    plan = {"one": ["a.py"], "two": ["b.py"], "three": ["c.py"]}
    monkeypatch.setattr(run_all, "jobs", lambda platform, devices: plan)
    monkeypatch.setattr(sys, "argv", ["run_all", "--out", str(out)])
    with pytest.raises(SystemExit, match=r"not measured: two \(exit status 3\)"):
        run_all.main()
    assert list(json.loads(out.read_text())) == ["one", "three"]
    run_all.main()
    assert asked == ["a.py", "b.py", "c.py", "b.py"]
    assert set(json.loads(out.read_text())) == set(plan)
