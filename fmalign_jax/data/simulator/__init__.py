"""Furnaces with a known lead, simulated."""

from fmalign_jax.data.simulator.furnaces import SimulatedFurnaces, Truth, simulate
from fmalign_jax.data.simulator.profiles import PROFILES, FurnaceProfile

__all__ = [
    "PROFILES",
    "FurnaceProfile",
    "SimulatedFurnaces",
    "Truth",
    "simulate",
]
