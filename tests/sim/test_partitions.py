"""Partitions of every shape: four nodes with and without a quorum disk, and two nodes: never do two sides work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from sim.kernel import MS, S
from sim.network import NetworkOptions
from sim.options import draw
from sim.run_cluster import ClusterRun
from sim.run_qdisk import QdiskRun

SEEN_EVERY_NS = 100 * MS
PARTITION_S = 40


def shapes(nodes: list[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to part them, but for all together."""
    def parts(rest: list[int]) -> Iterator[list[tuple[int, ...]]]:
        if not rest:
            yield []
            return
        for smaller in parts(rest[1:]):
            yield [(rest[0],), *smaller]
            for at, group in enumerate(smaller):
                yield [*smaller[:at], (rest[0], *group), *smaller[at + 1:]]

    return (tuple(sorted(shape)) for shape in parts(nodes) if len(shape) > 1)


FOUR = sorted(shapes([1, 2, 3, 4]))


def part(run: ClusterRun, shape: tuple[tuple[int, ...], ...]) -> set[tuple[int, ...]]:
    """Up, parted, whole again; who worked while it was parted. The checkers of the run look on, too."""
    run.loading = False
    run.start()
    assert run.kernel.run_for(120 * S, run.at_peace), "the cluster comes up"
    run.kernel.network.partition(*shape)
    worked: set[tuple[int, ...]] = set()
    for _ in range(PARTITION_S * S // SEEN_EVERY_NS):
        run.kernel.run_for(SEEN_EVERY_NS)
        side_of = {n: group for group in shape for n in group}
        settled = [n for n in run.nodes() if n.process is not None and set(n.process.node.members) <= {
            *side_of[n.node_id]}]
        working = {side_of[n.node_id] for n in settled if n.process.active}
        quorate = {side_of[n.node_id] for n in settled if n.process.node.quorum.quorate}
        assert len(working) <= 1, working
        assert len(quorate) <= 1 or run.two_node, quorate
        worked |= working
    run.make_peace()
    return worked


def test_there_are_fourteen() -> None:
    assert len(set(FOUR)) == 14


@pytest.mark.parametrize("shape", FOUR, ids=str)
def test_four_nodes_with_a_disk(shape: tuple[tuple[int, ...], ...], seed: int) -> None:
    number = seed * len(FOUR) + FOUR.index(shape)       # another disk each time: its votes, interval and tko
    options = dataclasses.replace(draw(number), nodes=4, faults=(), network=NetworkOptions())
    part(QdiskRun(number, options, faults=False), shape)


@pytest.mark.parametrize("shape", FOUR, ids=str)
def test_four_nodes_without(shape: tuple[tuple[int, ...], ...]) -> None:
    options = dataclasses.replace(draw(0), nodes=4, faults=(), network=NetworkOptions())
    worked = part(ClusterRun(0, options), shape)
    assert worked <= {group for group in shape if len(group) > 2}


@pytest.mark.parametrize("number", range(6))
def test_two_nodes(number: int) -> None:
    """Some of the seeds draw two_node; those with a disk have one side that works, by the disk alone."""
    options = dataclasses.replace(draw(number), nodes=2, faults=(), network=NetworkOptions())
    part(ClusterRun(number, options), ((1,), (2,)))
    worked = part(QdiskRun(number, options, faults=False), ((1,), (2,)))
    assert len(worked) == 1
