"""Learn one discrete code space for furnace video and current, without labels.

    import fmalign_jax as fm

    run = fm.load("runs/pretrain-1a2b3c4d")
    encoded = run.encode("recordings/*.npz")
    run.evaluate().plot()

Everything is imported when it is first used: `import fmalign_jax` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmalign_jax.api import (
        Alarm,
        CodeFeatures,
        Encoded,
        Evaluation,
        Lead,
        Readings,
        Run,
        load,
        load_alarm,
        sample,
        train,
    )

__version__ = "0.1.0"

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fmalign_jax' has no attribute {name!r}")
    return getattr(importlib.import_module("fmalign_jax.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
