"""Checkpoints as streams of Flax blocks."""
