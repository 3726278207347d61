"""The loss terms: one file a term, each a Linen module over Features."""
