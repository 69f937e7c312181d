"""Readers of benchmarks of the protocol ratings: pairs that people rated."""
