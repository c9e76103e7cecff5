"""The control file system of a mount, /run/gfs2/TABLE: the files that admins know from GFS2's sysfs and debugfs."""
