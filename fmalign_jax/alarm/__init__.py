"""Alarms on the current alone: rules, events, comparison, export, live stream."""
