"""Describes data sets as Croissant: JSON-LD that catalogues and loaders read."""

from fmalign_jax.data.croissant.elements import FILE, Json, write
from fmalign_jax.data.croissant.prepared_data import prepared
from fmalign_jax.data.croissant.raw_folders import layout_v2, videos_and_tables

__all__ = ["FILE", "Json", "layout_v2", "prepared", "videos_and_tables", "write"]
