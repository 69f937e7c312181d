"""Texts whose distributions are known: what is kept of them, what certificates say, and what fresh ones say."""
