"""Whole ways to align modalities: which blocks, which state, how they encode."""
