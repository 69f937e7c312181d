"""The page of `itm generate`: counts, some of the texts, and what the text alone gives away."""
