"""Tables of pandas, which is not needed for anything else."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def frame(columns: Mapping[str, Any]) -> Any:
    """Returns a pandas.DataFrame of columns.

    Raises:
      ImportError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError(
            "a table needs pandas; got an environment without it; pip install pandas, "
            "or use to_dict()"
        ) from error
    return pandas.DataFrame(dict(columns))
