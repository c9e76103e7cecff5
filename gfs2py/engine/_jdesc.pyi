"""Journals on the disk for compiled code; Python uses gfs2py.engine._recovery.Journal."""
