"""Alarms on the current alone: rules, episodes, comparison, export, live stream."""
