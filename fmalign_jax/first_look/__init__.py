"""Before any training: whether two streams have anything in common, and when."""
