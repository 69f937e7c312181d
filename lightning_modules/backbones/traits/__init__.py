"""What a configuration has to know of each backbone, apart from its file, which imports Lightning."""
