"""What of a CLIP's published weights would make other scores, and those that open_clip saved."""
