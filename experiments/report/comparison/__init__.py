"""What `itm compare` says: scorers on the same items of benchmarks, and which differences decide."""
