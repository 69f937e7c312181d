"""Readers of benchmarks of the protocol groups: K images with K texts."""
