"""FileSystemHandle: the base class of what a FUSE session can serve (see _ops.pxd for the table behind it)."""


cdef class FileSystemHandle:
    """A file system ready to be served; subclasses fill the table of operations."""

    def close(self):
        """Free what the file system holds; called after the session has ended. Idempotent."""

    def statistics(self):
        """Counters of the file system as a dict of numbers; empty when it keeps none."""
        return {}

    def latencies(self):
        """Histograms by name (see _stat.pxd); empty when none are kept."""
        return {}

    def describe(self):
        """What this is: superblock, journals, space; empty when there is nothing to say."""
        return {}

    def background(self):
        """What threads of the file system's own wait for right now: name, kind, what, ns of each that waits."""
        return []

    @property
    def kernel_may_write_back(self):
        """Whether the kernel's page cache may hold written data back (writeback cache): nobody else changes the
        files, and an error of space may come as late as fsync or close."""
        return False

    @property
    def kernel_may_lock(self):
        """Whether the kernel may keep flock and fcntl locks to itself: no other node has the file system mounted."""
        return False

    @property
    def label(self):
        """What messages call this file system: the lock table or the device."""
        return ""
