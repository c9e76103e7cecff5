"""io_uring for the block devices; nothing of it is for Python."""
