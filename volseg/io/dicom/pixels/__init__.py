"""Frames decoded and rescaled into one array."""
