"""What frozen features are worth with labels: heads, transfer, references, reports."""
