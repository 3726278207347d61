import os
import signal

import pytest

from fmalign_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested(agree_after=None)
        os.kill(os.getpid(), number)
        assert interruption.requested(agree_after=None)
        # A second signal must kill a run that hangs.
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before
