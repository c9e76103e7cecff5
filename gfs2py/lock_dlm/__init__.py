"""lock_dlm: glocks as locks of a DLM lockspace, and how a node joins those that have the file system mounted."""
