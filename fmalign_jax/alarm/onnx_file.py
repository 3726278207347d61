"""An alarm as ONNX: for controllers and edge devices that have no JAX.

`alarm.onnx` takes one raw window, [1, T, R, C], as `windows` and gives `score` and
`code`, each [1]. The settings of the alarm are its metadata: text as it stands, and
all else as JSON. It is made where the score is at hand as a function; a program that is
serialised cannot be converted. `jax2onnx` is imported only where a file is written.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from types import ModuleType

from fmalign_jax.alarm.alarm_file import AlarmSettings
from fmalign_jax.alarm.export import Score
from fmalign_jax.data.files import replacing

SUFFIX = ".onnx"
OPSET = 21
"""Of ONNX 1.16; ONNX Runtime has it since 1.18 (2024)."""

INPUT, SCORE, CODE = "windows", "score", "code"


def converter() -> ModuleType:
    """Returns the package that converts.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise ValueError(
            "an alarm as ONNX is written by the package jax2onnx; got an environment "
            f"without it ({error}); pip install 'fmalign_jax[onnx]'"
        ) from None
    return jax2onnx


def save(path: pathlib.Path, settings: AlarmSettings, score: Score) -> None:
    """Writes an alarm as ONNX, whole or not at all.

    Args:
      path: of the file.
      settings: of the alarm; its metadata.
      score: as from `AlarmModel.score` or `TaughtScore.score`.

    Raises:
      ValueError: jax2onnx is not installed.
    """
    jax2onnx = converter()
    import onnx_ir

    model = jax2onnx.to_onnx(
        score,
        [(1, *settings.window_shape)],
        model_name="fmalign_jax alarm",
        opset=OPSET,
        input_names=[INPUT],
        output_names=[SCORE, CODE],
        return_mode="ir",
    )
    # ONNX Runtime complains at every start of constants that no node reads.
    read = {value for node in model.graph.all_nodes() for value in node.inputs}
    for name, value in list(model.graph.initializers.items()):
        if value not in read:
            del model.graph.initializers[name]
    model.metadata_props.update(
        {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in dataclasses.asdict(settings).items()
        }
    )
    with replacing(path) as temporary:
        onnx_ir.save(model, temporary)
