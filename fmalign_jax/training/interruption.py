"""Notices that a run is asked to stop, so that it can save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Within this context SIGTERM and Ctrl-C only set a flag; a second one kills.

    Python lets the main thread alone catch signals: in another one nothing changes.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        """Installs the handlers."""
        if threading.current_thread() is not threading.main_thread():
            return self
        self._previous = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the former handlers back."""
        self._restore()

    def requested(self, *, agree_after: Any) -> bool:
        """Whether to stop now.

        Args:
          agree_after: with several processes, what the last step gave, if at this step
            they ask one another; None if not. They stop together, at such a step
            only, because a process that left alone would hang the others, and they
            wait for the step first, because its messages must not mix with theirs.
        """
        if jax.process_count() == 1:
            return self._asked
        if agree_after is None:
            return False
        jax.block_until_ready(agree_after)
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self._asked))))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
