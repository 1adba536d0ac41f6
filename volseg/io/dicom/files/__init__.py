"""Bytes to headers: what a user points at, parsed with every limit checked, one header for each slice or frame."""
