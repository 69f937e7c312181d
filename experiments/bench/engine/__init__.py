"""What the scoring engine costs beside the model: its rate, its memory, and what it encodes."""
