"""One device and eight train the same model, over many steps."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_devices_equal_one_over_a_hundred_steps():
    done = subprocess.run(
        [sys.executable, "hundred_steps.py", "100"],
        cwd=TESTS,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "JAX_NUM_CPU_DEVICES": "8",
            "PYTHONPATH": str(TESTS.parent),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moved"] > 0.01  # the hundred steps led somewhere
    assert {"loss", "loss/cross_cpc", "params", "codebook"} <= found[
        "differences"
    ].keys()
    apart = {name: x for name, x in found["differences"].items() if not x < 1e-5}
    assert not apart
