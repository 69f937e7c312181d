"""Negatives: their tables, who writes them, and how much of the label the text alone gives away."""
