"""What a scorer does on one GPU: checks first, then rates of scoring and of training."""
