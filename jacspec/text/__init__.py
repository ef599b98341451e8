"""Texts: fetched or given, split into samples, batched; labelled ones."""
