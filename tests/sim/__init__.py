"""Deterministic simulation: many nodes, one heap of events, one seed; see README.md beside this file."""
