"""From a PyTorch network to the format of another engine: converted, checked against PyTorch, and kept in the cache."""
