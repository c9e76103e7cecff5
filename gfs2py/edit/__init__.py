"""Prints any structure or block of a file system."""
