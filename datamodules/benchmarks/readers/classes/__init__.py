"""Readers of benchmarks of the protocol classes: images with the name of their class."""
