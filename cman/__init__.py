"""Cluster membership: configuration, totem, ordered groups, quorum, quorum disk, fencing; one daemon per node."""
