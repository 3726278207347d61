"""Every setting: its default, its check, and how a run keeps it.

All that a config file needs is imported from here::

    from fmalign_jax.config import component, default_config
"""

from fmalign_jax.config.commands import (
    early_warning_config,
    evaluation_config,
    lead_config,
    sweep_config,
)
from fmalign_jax.config.default import (
    component,
    default_config,
    read_lead_range,
    set_teacher,
    shared_level,
)
from fmalign_jax.config.overrides import (
    Change,
    find_config,
    import_beside,
    load_file,
    override,
    read_config,
    run_name,
    setting,
    shipped_config,
    shipped_configs,
    unchanged,
    without,
)
from fmalign_jax.config.rename import rename_modality

__all__ = [
    "Change",
    "component",
    "default_config",
    "early_warning_config",
    "evaluation_config",
    "find_config",
    "import_beside",
    "lead_config",
    "load_file",
    "override",
    "read_config",
    "read_lead_range",
    "rename_modality",
    "run_name",
    "set_teacher",
    "setting",
    "shared_level",
    "shipped_config",
    "shipped_configs",
    "sweep_config",
    "unchanged",
    "without",
]
