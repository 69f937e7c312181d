"""Items that a page shows: what scorers disagree on, and what they fail on."""
