"""A node loses its disk: another replays its journal, and only then do new grants count. What was synced is there."""

from __future__ import annotations

import random
import threading

import pytest

from coherence.cluster import Cluster

NO_TAIL = 5                             # gls.planted


@pytest.mark.parametrize("bsize", [1024, 4096])
def test_acknowledged_fsyncs_survive(bsize: int, seed: int) -> None:
    rng = random.Random(seed)
    kept = {}
    with Cluster(3, seed, bsize=bsize, commit_ms=rng.choice((5, 30000))) as c:
        dying = c.nodes[1].volume
        dying.mkdir("d")
        c.nodes[0].volume.create("d/of0", b"a")
        for i in range(60):
            name, data = f"d/f{i}", rng.randbytes(rng.randrange(20_000))
            dying.create(name, data)
            if rng.random() < 0.5:
                dying.fsync(name)
                kept[name] = data
            if rng.random() < 0.1:
                c.nodes[2].volume.exists(name)
        dying.fsync("d")
        c.crash(1)
        seen: dict[str, bytes] = {}

        def read() -> None:
            for name in kept:
                seen[name] = c.nodes[2].volume.read(name)

        reader = threading.Thread(target=read)
        reader.start()                  # gets nothing that the dead node may have changed, until the replay
        c.nodes[0].volume.fs.recover_jid(1)
        c.recovered()
        reader.join()
        assert seen == kept
        assert c.nodes[0].volume.fs.recover_jid(1) is None      # clean by now
        c.mount(1)
        assert {name: c.nodes[1].volume.read(name) for name in kept} == kept
    assert c.findings() == []


def replay_undoes_nothing(planted: int) -> bool:
    """A node dies whose journal has seen changes of blocks that others have changed since."""
    with Cluster(3, 1, planted=planted) as c:
        dies, lives = c.nodes[0].volume, c.nodes[1].volume
        for i in range(5):
            dies.create(f"f{i}", b"x")
            dies.setattr(f"f{i}", mode=0o600)
        for i in range(5):
            lives.setattr(f"f{i}", mode=0o640)
            lives.write(f"f{i}", 0, b"new content")
        lives.unlink("f4")
        c.unmount(1)                    # all of it is in place
        c.crash(0)
        c.nodes[2].volume.fs.recover_jid(0)
        c.recovered()
    try:
        with Cluster.again(c) as alone:
            volume = alone.nodes[0].volume
            good = not volume.exists("f4") and all(volume.read(f"f{i}") == b"new content" for i in range(4))
    except OSError:
        return False
    return good and alone.findings() == []


def test_replay_undoes_nothing_of_others() -> None:
    assert replay_undoes_nothing(0)


def test_old_copies_in_a_journal_are_found() -> None:
    """The planted bug: a lock is let go while the journal could still write old copies of its blocks."""
    assert not replay_undoes_nothing(NO_TAIL)
