"""Which label maps belong together, and how they are read for comparison."""
