"""What the commands with a config take beside it. Knows neither JAX nor any command."""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags


def define_flags() -> None:
    """Defines the flags of the commands that take a config, once."""
    if "config" in flags.FLAGS:
        return
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, such as configs/pretrain.py or configs/pretrain.py:smoke",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder to write to; by default runs/CONFIG-DIGEST, or RUN/evaluation",
    )
    flags.DEFINE_bool(
        "show_config",
        False,
        "Print every setting, with what differs from the default, and do nothing else",
    )
    flags.DEFINE_list(
        "trust_code",
        [],
        "Packages of your own whose classes the config of a saved run may name",
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, when a run has several processes"
    )
    flags.DEFINE_integer("processes", 1, "Number of processes of the run")
    flags.DEFINE_integer("process", 0, "Index of this process")
    flags.DEFINE_integer(
        "wait_s", 300, "Seconds to wait for the other processes of the run", 1
    )
