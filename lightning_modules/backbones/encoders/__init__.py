"""Images and captions to a backbone's inputs, where that fills a file of its own."""
