"""The on-disk format: one table of structures drives packing, printing and checking."""
