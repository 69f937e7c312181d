"""`itm generate` in parts: the tables that it leaves, a chat model's run and its batches, and the judges of truth."""
