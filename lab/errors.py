"""What goes wrong in the lab, for a person to read."""

from __future__ import annotations


class LabError(Exception):
    """One line that says what is missing, which node it concerns and, where there is one, the way out."""
