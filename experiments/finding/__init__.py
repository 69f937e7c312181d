"""Finding runs among many: what lies in their folders, read fast and trusted in nothing."""
