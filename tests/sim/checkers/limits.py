"""Bounded queues: what a machine keeps never exceeds what its configuration allows."""

from __future__ import annotations

from cman.totem import TotemMachine
from sim.checkers import Violation


def check_totem_limits(machine: TotemMachine) -> None:
    """The packets of two rings, and the queue."""
    config = machine.config
    kept_max = 2 * (config.unacknowledged_max + 2 * config.window_size) + config.unacknowledged_max
    now = machine.statistics()
    if now["kept_packets"] > kept_max:
        raise Violation(f"node {machine.me} keeps {now['kept_packets']} packets, at most {kept_max}")
    if now["queued_bytes"] > config.queue_bytes_max:
        raise Violation(f"node {machine.me} queues {now['queued_bytes']} bytes, at most {config.queue_bytes_max}")
