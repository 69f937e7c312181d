"""Texts of published benchmarks, and what judges that see no photo make of them."""
