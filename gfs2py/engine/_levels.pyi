# Compiled, no Python names: see ext/gfs2py/engine/_levels.pxd
