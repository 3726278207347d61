"""From clocks to windows: ticks, splits, the index of windows, statistics."""
