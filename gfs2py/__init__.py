"""GFS2 in user space: the file system of the suite."""

