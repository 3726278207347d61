"""From a folder of recordings to a first config for it."""
