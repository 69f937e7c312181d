"""Other libraries on the same models and pairs, each in an environment that has it."""
