"""Measures the train step of a config: time, windows/s, how near to the chip's limit.

    python benchmarks/step_throughput.py --config configs/pretrain.py
    python benchmarks/step_throughput.py --config configs/cmg_paper.py --batch 8 \\
        --compare torch --out paper.json

Inputs are made up, so that no data set is needed. With --compare torch the same model,
losses, critics and codebook in PyTorch (torch_model.py, torch_step.py; extra `bench`)
are measured in the same run, in turn, both without augmentation.
docs/performance.md says how to read the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import cases
import jax
import jax.numpy as jnp
import measure
import numpy as np
from ml_collections import ConfigDict

from fmalign_jax.cli import set_up_jax
from fmalign_jax.data.files import write_text
from fmalign_jax.training import preprocess, sharding, step as train_step
from fmalign_jax.training.joined import join
from fmalign_jax.training.state import encode

TORCH_FORMS = ("eager fp32", "eager fp64", "compiled bf16")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a run changes in the config; None leaves it as it is."""

    devices: int = 1
    batch: int | None = None
    ticks: int | None = None
    codes: int | None = None


def integers(text: str) -> list[int]:
    """Returns the numbers of a list such as 1,2,4."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measures what the command line asks for and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    for name in ("batch", "ticks", "codes"):
        parser.add_argument(f"--{name}", type=integers, help="or several: 8,16,32")
    parser.add_argument("--devices", type=integers, default=[1], help="such as 1,2,4")
    parser.add_argument("--weak", action="store_true", help="batch is of each device")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compare", choices=("torch",))
    parser.add_argument("--torch-forms", nargs="*", choices=TORCH_FORMS)
    parser.add_argument("--torch-config", help="of another model than ours")
    parser.add_argument("--parts", action="store_true", help="time each part too")
    parser.add_argument("--budget-s", type=float, default=20.0, help="of each timing")
    parser.add_argument("--out", type=pathlib.Path, help="a .json file")
    arguments = parser.parse_args()
    most = max(arguments.devices)
    if most > len(jax.devices()):
        remedy = f"on a CPU set JAX_NUM_CPU_DEVICES={most}, for virtual ones"
        parser.error(f"--devices asks for {most} of {len(jax.devices())}; {remedy}")
    sizes = [
        Sizes(*each)
        for each in itertools.product(
            arguments.devices,
            arguments.batch or [None],
            arguments.ticks or [None],
            arguments.codes or [None],
        )
    ]
    found: dict[str, Any] = {
        "config": arguments.config,
        "made_with": measure.provenance(),
        "limits": limits(),
        "runs": [],
        "torch": [],
    }

    def keep() -> None:  # of a run that is stopped, what it has measured
        if arguments.out:
            write_text(arguments.out, json.dumps(found, indent=1) + "\n")

    for each in sizes:
        found["runs"].append(measure_step(arguments, each))
        keep()
    if arguments.parts:
        config = configured(arguments, sizes[0])
        found["parts"] = parts(config, arguments.budget_s / 4)
        keep()
    if arguments.compare:
        for form in arguments.torch_forms or TORCH_FORMS[:1]:
            found["torch"].append(compare(arguments, sizes[0], form))
            keep()
    print_tables(found)


def configured(
    arguments: argparse.Namespace, sizes: Sizes, path: str | None = None
) -> ConfigDict:
    """Returns the config, of `path` if given, with what the command line changes."""
    config = cases.load_config(path or arguments.config)
    if sizes.batch:
        config.batch_size = sizes.batch
    if arguments.weak:
        config.batch_size *= sizes.devices
    if sizes.ticks:
        config.data.window_ticks = sizes.ticks
    if sizes.codes:
        config.codebook.codes = sizes.codes
    if arguments.precision == "bf16":
        config.compute_dtype = "bfloat16"
    return config


def limits() -> dict[str, float]:
    """Returns what the device can do, measured now."""
    return {
        "matrix_fp32_flops": measure.matrix_ceiling(jnp.float32),
        "matrix_bf16_flops": measure.matrix_ceiling(jnp.bfloat16),
        "memory_bytes_per_s": measure.memory_bandwidth(),
    }


class Stepper:
    """A compiled train step that takes over its own state, call by call."""

    def __init__(self, config: ConfigDict, devices: int = 1) -> None:
        self.case = cases.make_case(config, sharding.make_mesh(jax.devices()[:devices]))
        self.state = self.case.state
        step = train_step.make_train_step(self.case.trainer, self.case.mesh)
        started_s = time.perf_counter()
        self._numbers = step.args
        lowered = step.func.lower(*self._numbers, self.state, self.case.batch)
        self.compiled = lowered.compile()
        self.compile_s = time.perf_counter() - started_s
        update = functools.partial(
            train_step.train_on_batch, self.case.trainer, self.case.mesh
        )
        jaxpr = jax.make_jaxpr(update)(self.state, self.case.batch).jaxpr
        self.flops = measure.matrix_flops(jaxpr) / devices
        self()

    def __call__(self) -> Any:
        """Takes one step and returns its metrics."""
        self.state, metrics = self.compiled(*self._numbers, self.state, self.case.batch)
        return metrics


def measure_step(arguments: argparse.Namespace, sizes: Sizes) -> dict[str, Any]:
    """Measures our step at one size."""
    config = configured(arguments, sizes)
    stepper = Stepper(config, sizes.devices)
    alone_s = measure.repeated(stepper, budget_s=0)
    calls = measure.calls_in_a_row(stepper)
    times_s = measure.repeated(stepper, budget_s=arguments.budget_s, calls=calls)
    median_s = float(np.median(times_s))
    cost = stepper.compiled.cost_analysis() or {}
    memory = stepper.compiled.memory_analysis()
    used = sum(
        getattr(memory, f"{kind}_size_in_bytes", 0)
        for kind in ("argument", "output", "temp")
    ) - getattr(memory, "alias_size_in_bytes", 0)
    on_gpu = jax.default_backend() == "gpu"  # elsewhere a profile shows no kernels
    return {
        "devices": sizes.devices,
        "batch": config.batch_size,
        "ticks": config.data.window_ticks,
        "codes": config.codebook.codes if "codebook" in config else None,
        "compute_dtype": config.compute_dtype,
        "parameters": sum(x.size for x in jax.tree.leaves(stepper.state.params)),
        "compile_s": round(stepper.compile_s, 1),
        "step": measure.spread(times_s),
        "calls_in_a_row": calls,
        "kernels": measure.kernels(stepper) if on_gpu else None,
        "step_alone": measure.spread(alone_s),
        "windows_per_s": config.batch_size / median_s,
        # Of one device: the compiled program is what each of them runs.
        "flops": stepper.flops,
        "flops_per_s": stepper.flops / median_s,
        "flops_by_cost_analysis": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
        "bytes_per_s": cost.get("bytes accessed", 0.0) / median_s,
        "memory_bytes": used,
    }


def parts(config: ConfigDict, budget_s: float) -> dict[str, dict[str, float]]:
    """Times the pieces of a step, each compiled by itself, with its gradient."""
    case = cases.make_case(config, sharding.one_device_mesh())
    trainer, state, batch = case.trainer, case.state, case.batch
    keys = train_step.step_keys(0, jnp.int32(0), train_step.random_streams(trainer))
    params, streams = state.params["model"], batch["streams"]

    def random_view(streams: Any, key: Any) -> Any:
        return train_step._random_view(config, streams, state.statistics, key)

    view = jax.jit(random_view)
    inputs = view(streams, keys["augment"])

    def semantic(p: Any, some: Any) -> Any:
        found: Any = trainer.model.apply(
            {"params": p}, some, train=True, rngs=keys, method="semantic"
        )
        return sum(jnp.square(z).sum() for z in found.values())

    def encoded(p: Any) -> Any:
        return encode(
            trainer, p, state.model_state, inputs, batch, train=True, rngs=keys
        )

    def everything(p: Any) -> Any:
        features = encoded(p)
        return sum(
            jnp.square(x).sum()
            for x in jax.tree.leaves((features.semantic, features.pooled_specific))
        )

    features = jax.jit(encoded)(params)
    second = jax.jit(
        lambda p: train_step._second_view(
            trainer, p, functools.partial(random_view, streams), keys["second_view"]
        )
    )
    features = dataclasses.replace(features, second_view=second(params))
    names = list(trainer.weights)

    def term(name: str) -> Callable[..., Any]:
        def loss(own: Any, vectors: Any) -> Any:
            changed = dataclasses.replace(features, semantic=vectors, quantized=vectors)
            terms, _ = trainer.objectives.apply(
                {"params": own | state.critic_params}, changed, train=True, rngs=keys
            )
            return terms[name].mean() if name in terms else 0.0

        return jax.jit(jax.grad(loss, argnums=(0, 1)))

    own = state.params["objectives"]
    pieces: dict[str, Callable[[], Any]] = {
        "normalise and augment": lambda: view(streams, keys["augment"]),
        "encoders": functools.partial(jax.jit(jax.grad(everything)), params),
        "critics": functools.partial(
            jax.jit(lambda f: train_step._fit_critics(trainer, state, f)), features
        ),
        "model state": functools.partial(
            jax.jit(
                lambda f: trainer.model.update_model_state(
                    state.model_state, f, keys["revive"]
                )
            ),
            features,
        ),
        "optimiser": functools.partial(
            jax.jit(lambda g: trainer.optimizer.update(g, state.opt_state, g)),
            join(state.params)[0],
        ),
    }
    gradient = jax.jit(jax.grad(semantic))
    for name in trainer.objectives.second_views:
        some = {name: inputs[name]}
        pieces[f"second view of {name}"] = functools.partial(gradient, params, some)
    for name in inputs:
        some = {name: inputs[name]}
        pieces[f"semantic encoder of {name}"] = functools.partial(
            gradient, params, some
        )
    for name in names:
        pieces[f"loss {name}"] = functools.partial(term(name), own, features.semantic)
    found = {}
    for name, call in pieces.items():
        jax.block_until_ready(call())  # compiles
        found[name] = measure.spread(measure.repeated(call, budget_s=budget_s))
    return found


def compare(arguments: argparse.Namespace, sizes: Sizes, form: str) -> dict[str, Any]:
    """Measures our step and PyTorch's in turn, of the same batch."""
    import torch
    import torch_systems

    one_device = dataclasses.replace(sizes, devices=1)
    config = configured(arguments, one_device)
    cases.without_augmentation(config)
    stepper = theirs = Stepper(config)
    if arguments.torch_config:
        same_batch = dataclasses.replace(one_device, batch=config.batch_size)
        config = configured(arguments, same_batch, arguments.torch_config)
        cases.without_augmentation(config)
        theirs = Stepper(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float64 if form.endswith("fp64") else torch.float32
    trainer = torch_systems.make_trainer(config, theirs.case.tick_shapes)
    trainer.copy_from(jax.device_get(theirs.state))
    trainer = trainer.to(device, dtype)
    trainer.make_optimisers()
    plain = preprocess.normalise(theirs.case.batch["streams"], theirs.state.statistics)
    batch = {
        name: torch.tensor(np.asarray(x), device=device, dtype=dtype)
        for name, x in plain.items()
    }
    call = trainer.step
    if form.startswith("compiled"):
        call = torch.compile(trainer.step)

    def torch_step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=form.endswith("bf16")):
            return call(batch)

    def wait(loss: torch.Tensor) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        loss_after_two = float(torch_step())
    return {
        "form": form,
        "config": arguments.torch_config or arguments.config,
        "device": device,
        "threads": torch.get_num_threads(),
        "loss_after_two_steps": loss_after_two,
        "batch": config.batch_size,
        **measure.beside(
            stepper, torch_step, wait=wait, budget_s=2 * arguments.budget_s
        ),
    }


def print_tables(found: dict[str, Any]) -> None:
    """Prints what was found."""
    about, limit = found["made_with"], found["limits"]
    print(f"\n{found['config']} on {about['device']}, {about['cpu_cores']} CPU cores")
    print(
        f"limits: {limit['matrix_fp32_flops'] / 1e9:.0f} GFLOP/s fp32, "
        f"{limit['matrix_bf16_flops'] / 1e9:.0f} GFLOP/s bf16, "
        f"{limit['memory_bytes_per_s'] / 1e9:.1f} GB/s"
    )
    print(
        "\n| devices | batch | ticks | codes | compile s | step ms (quartiles) "
        "| alone ms | windows/s | GFLOP/s (of ceiling) | GB/s (of bandwidth) "
        "| memory MB |"
    )
    print("|" + "---|" * 11)
    for run in found["runs"]:
        kind = "bf16" if run["compute_dtype"] == "bfloat16" else "fp32"
        ceiling = run["flops_per_s"] / limit[f"matrix_{kind}_flops"]
        share = run["bytes_per_s"] / limit["memory_bytes_per_s"]
        print(
            f"| {run['devices']} | {run['batch']} | {run['ticks']} | {run['codes']} | "
            f"{run['compile_s']} | {measure.shown(run['step'])} | "
            f"{run['step_alone']['median_ms']:.1f} | "
            f"{run['windows_per_s']:.1f} | "
            f"{run['flops_per_s'] / 1e9:.1f} ({ceiling:.2f}) | "
            f"{run['bytes_per_s'] / 1e9:.1f} ({share:.2f}) | "
            f"{run['memory_bytes'] / 2**20:.0f} |"
        )
        if run["kernels"]:
            print(
                f"a step starts {run['kernels']['kernels']:.0f} kernels, which run "
                f"{run['kernels']['kernel_ms']:.1f} ms"
            )
    if "parts" in found:
        print("\n| part, with its gradient | ms |\n|---|---|")
        for name, times in found["parts"].items():
            print(f"| {name} | {times['median_ms']:.1f} |")
    for row in found["torch"]:
        low, high = row["ratio"]["quartiles"]
        print(
            f"\nPyTorch {row['form']}, {row['config']}, {row['device']}, "
            f"{row['threads']} threads: "
            f"{row['torch']['median_ms']:.1f} ms against our "
            f"{row['ours']['median_ms']:.1f} ms at batch {row['batch']}: ratio "
            f"{row['ratio']['median']:.2f} ({low:.2f}, {high:.2f})"
        )


if __name__ == "__main__":
    # PyTorch needs memory of the same GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    set_up_jax()
    main()
