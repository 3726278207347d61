"""The folder of a run: written in training, read afterwards.

The public way to a finished run::

    from fmalign_jax.run import open_run

    run = open_run("runs/pretrain-1a2b3c4d", step="best")
"""

from fmalign_jax.run.restore import OpenedRun, open_run

__all__ = ["OpenedRun", "open_run"]
