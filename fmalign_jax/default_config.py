"""What config files of earlier versions import; new ones import from `config`."""

from __future__ import annotations

from ml_collections import ConfigDict

from fmalign_jax.config.default import component, default_config, set_teacher

__all__ = ["component", "default_config", "let_teach"]


def let_teach(
    config: ConfigDict,
    *,
    teacher: str,
    learner: str,
    back: float = 0.0,
    pull: float = 0.25,
) -> None:
    """Sets who learns from whom: the earlier name of `config.set_teacher`."""
    set_teacher(config, teacher=teacher, student=learner, back=back, pull=pull)
