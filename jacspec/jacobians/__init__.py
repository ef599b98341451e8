"""Jacobians of attention and MLP branches at the last token, and their spectra; one file an engine."""
