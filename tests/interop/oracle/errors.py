"""The oracle's exit codes, beside those of the script it ran, and its exception."""

EX_MOUNT = 240      # the mount failed
EX_WITHDRAW = 241   # withdraw, oops or consistency error
EX_TIMEOUT = 242    # timed out
EX_GUEST = 243      # the guest did not boot, or died
EX_UMOUNT = 244     # the unmount failed
EX_USAGE = 245      # wrong usage, or not prepared


class OracleError(Exception):
    """The oracle cannot do its work: a tool, a package or an image is missing."""
