"""Times packed scorers against the plain Transformers model."""
