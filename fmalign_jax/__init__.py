"""Learn one discrete code space for furnace video and current, without labels."""

__version__ = "0.1.0"
