# For compiled callers only: see the .pxd.
