# Compiled, no Python names: see ext/gfs2py/engine/_births.pxd
