"""Makes GFS2 file systems."""
