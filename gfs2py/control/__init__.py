"""The control socket of gfs2d: what a mount tells of itself to root, by msgpack over a unix socket."""
