"""The names that config files of earlier versions import; new ones use `config`."""

from fmalign_jax.config.default import component, default_config, let_teach

__all__ = ["component", "default_config", "let_teach"]
