"""Readers of benchmarks of the protocol labels: pairs that people called a match or none."""
