"""The scoring engine: what benchmarks and tables ask, whatever scores it, each distinct pair once."""
