"""Raw recordings in, aligned windows out; NumPy only, no models."""
