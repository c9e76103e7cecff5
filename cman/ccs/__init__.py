"""The cluster's configuration: cluster.conf read and checked against one table, stored, and spread to all members."""
