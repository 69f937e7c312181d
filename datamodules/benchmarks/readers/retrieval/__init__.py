"""Readers of benchmarks of the protocol retrieval: which texts belong to which images."""
