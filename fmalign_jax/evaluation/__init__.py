"""Evaluation of frozen features with labels: heads, transfer, references, reports."""
