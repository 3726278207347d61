"""Encoders, decoders, the quantiser, and the model they make."""
