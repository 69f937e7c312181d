"""Protocols: how logits and a key become metrics, one file each, one table of them."""
