"""The FUSE session: our own data plane on /dev/fuse."""
