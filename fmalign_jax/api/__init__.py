"""The public interface: what `import fmalign_jax as fm` offers.

    run = fm.load("runs/pretrain-1a2b3c4d")
    encoded = run.encode("recordings/*.npz")
    run.evaluate().plot()

The page "From Python" of the documentation shows how each name is used, and says what
may change with which version.
"""

from fmalign_jax.api.alarms import Alarm, Readings, load_alarm
from fmalign_jax.api.results import Encoded, Evaluation, Lead
from fmalign_jax.api.runs import Run, load
from fmalign_jax.api.training import train
from fmalign_jax.api.transformer import CodeFeatures
from fmalign_jax.data.sample import sample

__all__ = [
    "Alarm",
    "CodeFeatures",
    "Encoded",
    "Evaluation",
    "Lead",
    "Readings",
    "Run",
    "load",
    "load_alarm",
    "sample",
    "train",
]
