"""From frozen encoders to a curve over leads, its estimate and its interval."""
