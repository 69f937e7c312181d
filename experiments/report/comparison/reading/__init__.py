"""Reading evaluations: of any protocol, of this version and of older ones."""
