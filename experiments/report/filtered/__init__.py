"""The page of `itm filter`: what is kept, what it teaches, what other strengths would keep, and some of the pairs."""
