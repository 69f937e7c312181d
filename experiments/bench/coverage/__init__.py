"""Whether 95 % intervals hold the truth 95 times in 100, for each protocol."""
