"""The list of faults to be planted fits the code and the tests as they stand."""

import pathlib

import pytest

from fmalign_jax.config.overrides import load_file

ROOT = pathlib.Path(__file__).parents[1]
PLANTER = load_file(ROOT / "scripts" / "wiring_faults.py")


@pytest.mark.parametrize("fault", PLANTER.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_the_code_once_and_names_a_test(fault):
    assert PLANTER.fits(fault, ROOT)
    planted = (ROOT / fault.file).read_text().replace(fault.text, fault.planted)
    compile(planted, fault.file, "exec")
    path, _, name = fault.test.partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def test_faults_have_different_names():
    names = [fault.name for fault in PLANTER.FAULTS]
    assert len(set(names)) == len(names)
