"""Hostile disks: structure-aware damage to real images, and everything that may be done with them afterwards."""
