"""Readers of benchmarks, one file each, in a folder for each protocol."""
