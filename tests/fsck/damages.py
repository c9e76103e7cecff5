"""The whole table of damages; importing the two parts fills it."""

from __future__ import annotations

from fsck import damages_blocks, damages_names
from fsck.patient import TABLE, Damage, Patient

PARTS = (damages_blocks, damages_names)

__all__ = ["PARTS", "TABLE", "Damage", "Patient"]
