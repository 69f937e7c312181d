"""Chat VLMs that are asked whether a caption matches: the prompt, the sequences, and what differs between families."""
