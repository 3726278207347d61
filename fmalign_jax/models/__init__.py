"""The blocks of a system: encoders, decoders, layers, quantiser, critics."""
