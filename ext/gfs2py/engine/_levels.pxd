"""What a mount's statistics say of its cache, log, inodes and space."""
from gfs2py.engine._fs cimport gfs2_fs

# Numbers only; takes no lock that a request may hold for long. Cache, log and inodes must be there.
cdef dict levels(gfs2_fs* fs)
