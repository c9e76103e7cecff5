"""The file-system engine: cache, journal, resource groups, inodes, directories."""
