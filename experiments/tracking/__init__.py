"""What is told of results beside their files: evaluations in W&B, facts about data, and what was made from what."""
