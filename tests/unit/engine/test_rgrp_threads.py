"""Many threads allocate and free at once."""

import random
import threading

from spacekit import FILE, blocks_of, check_groups_on_disk, fresh, laboratory, states_on_disk

from gfs2py.engine._spacelab import SpaceLab

THREADS = 6


def worker(lab: SpaceLab, seed: int, start: threading.Barrier, result: list[set[int]],
           errors: list[Exception]) -> None:
    rng = random.Random(seed)
    owners = [lab.owner(FILE) for _ in range(3)]
    mine: list[tuple[int, int]] = []
    start.wait()
    try:
        for _ in range(400):
            if rng.random() < 0.55 or not mine:
                mine += lab.alloc(rng.choice(owners), rng.randint(1, 60))
            else:
                lab.free(*mine.pop(rng.randrange(len(mine))), meta=rng.random() < 0.5)
            if rng.random() < 0.03:
                lab.flush()
            if rng.random() < 0.05:
                lab.drop_reservation(rng.choice(owners))
    except OSError as err:
        errors.append(err)
    result.append(set(blocks_of(mine)))


def test_nothing_is_given_twice_and_all_is_accounted(seed: int) -> None:
    dev = fresh(128)
    with laboratory(dev) as lab:
        total, free, dinodes = lab.statfs()
        results: list[set[int]] = []
        errors: list[Exception] = []
        start = threading.Barrier(THREADS)
        threads = [threading.Thread(target=worker, args=(lab, seed + i, start, results, errors))
                   for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "deadlock"
        assert errors == []
        owned = set().union(*results)
        assert len(owned) == sum(len(r) for r in results)
        assert lab.statfs() == (total, free - len(owned), dinodes) == lab.statfs(slow=True)
        lab.flush()
        groups = lab.groups()
        assert all(g["free"] == g["free_clone"] for g in groups)
    check_groups_on_disk(dev, groups, 4096)
    assert sum(s == 0 for g in groups for s in states_on_disk(dev, g, 4096)) == free - len(owned)
