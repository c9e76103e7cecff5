"""Fencing: who must be cut off before anybody touches what it may still write to, and how that is done."""
