"""Readers of benchmarks of the protocol pairs: true and false texts of an image."""
