"""The Slurm script gives each task the command that docs/cluster.md describes."""

import os
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "train.sbatch"

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="bash is needed")

STAND_INS = {
    # As many tasks as asked for, or as the job has; its own options are left out.
    "srun": """
tasks=$SLURM_NTASKS
while [[ $1 == --* ]]; do
  [[ $1 == --ntasks=* ]] && tasks=${1#--ntasks=}
  shift
done
for ((i = 0; i < tasks; i++)); do SLURM_PROCID=$i "$@"; done
""",
    "scontrol": "[[ $* == 'show hostnames gpu[07-08]' ]] && printf 'gpu07\\ngpu08\\n'",
    "python": 'printf "%s\\n" "$*" >>"$LOG"',
}


def _submit(folder, *arguments):
    for name, content in STAND_INS.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{content}\n")
        path.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(folder / "log"),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "gpu[07-08]",
        "SLURM_NTASKS": "3",
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_task_gets_its_number_and_the_same_coordinator(tmp_path):
    done = _submit(tmp_path, "a.py:full", "/shared/my runs", "--config.seed=3")
    assert (done.returncode, done.stderr) == (0, "")
    first, *tasks = (tmp_path / "log").read_text().splitlines()
    assert first == "-m fmalign_jax.prepare --config a.py:full --config.seed=3"
    assert tasks == [
        "-m fmalign_jax.train --config a.py:full --workdir /shared/my runs "
        f"--coordinator gpu07:33456 --processes 3 --process {i} --config.seed=3"
        for i in range(3)
    ]


def test_what_it_needs_is_said(tmp_path):
    done = _submit(tmp_path, "a.py:full")
    assert done.returncode == 2
    assert "a config and a shared folder for the run are needed" in done.stderr
    assert not (tmp_path / "log").exists()


def test_it_asks_to_be_told_before_the_time_is_over():
    assert "#SBATCH --signal=TERM@" in SCRIPT.read_text()
