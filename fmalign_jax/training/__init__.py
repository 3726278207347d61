"""The compiled step and its surroundings; knows no system by name."""
