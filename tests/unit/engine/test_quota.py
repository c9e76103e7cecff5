"""Quotas and statfs: charging, limits, folding, and what a crash leaves."""

import errno
import threading

import pytest
from spacekit import DIRECTORY, FILE, blocks_of, fresh, laboratory

from gfs2py.block._memory import MemoryDevice
from gfs2py.engine._recovery import Journal
from gfs2py.engine._spacelab import SpaceLab
from gfs2py.ondisk import constants as c

USER, GROUP = 0, 1


def test_blocks_are_charged_to_user_and_group() -> None:
    with laboratory(quota=True) as lab:
        owner = lab.owner(FILE, uid=1000, gid=2000)
        blk = lab.alloc(owner, 30)[0][0]
        assert lab.quota(USER, 1000) == (0, 0, 30, 30)
        assert lab.quota(GROUP, 2000) == (0, 0, 30, 30)
        assert lab.quota(GROUP, 1000) == (0, 0, 0, 0)
        lab.free(blk, 12, owner=owner)
        assert lab.quota(USER, 1000) == (0, 0, 18, 18)
        lab.quota_sync()
        assert lab.quota(USER, 1000) == (0, 0, 18, 0)
        assert lab.quota(GROUP, 2000) == (0, 0, 18, 0)


def test_system_files_and_nobody_are_not_charged() -> None:
    with laboratory(quota=True) as lab:
        lab.alloc(lab.owner(FILE, uid=5, gid=5, diskflags=c.GFS2_DIF_SYSTEM), 10)
        lab.alloc(lab.owner(DIRECTORY, uid=5, gid=5), 1, dinode=True)
        assert lab.quota(USER, 5) == (0, 0, 0, 0)


def test_without_accounting_there_are_no_quotas() -> None:
    with laboratory() as lab:
        lab.alloc(lab.owner(FILE, uid=7, gid=7), 10)
        with pytest.raises(OSError) as off:
            lab.quota(USER, 7)
        assert off.value.errno == errno.ESRCH


def test_limits_stop_the_user_but_not_root() -> None:
    with laboratory(quota=True) as lab:
        owner = lab.owner(FILE, uid=1000, gid=100)
        lab.set_quota(USER, 1000, limit=50, warn=40)
        lab.alloc(owner, 50, uid=1000)
        with pytest.raises(OSError) as over:
            lab.alloc(owner, 1, uid=1000)
        assert over.value.errno == errno.EDQUOT
        lab.alloc(owner, 5, uid=0)
        assert lab.quota(USER, 1000)[:3] == (50, 40, 55)
        lab.set_quota(USER, 1000, limit=0)
        lab.alloc(owner, 100, uid=1000)
        lab.set_quota(GROUP, 100, limit=10)
        with pytest.raises(OSError) as group:
            lab.alloc(owner, 1, uid=1000)
        assert group.value.errno == errno.EDQUOT


def test_limits_and_values_outlive_the_mount() -> None:
    dev = fresh()
    with laboratory(dev, quota=True) as lab:
        lab.alloc(lab.owner(FILE, uid=31, gid=32), 9)
        lab.set_quota(USER, 31, limit=1000, warn=900)
        lab.set_quota(GROUP, 32, limit=77, value=3)
        lab.quota_sync()
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(USER, 31) == (1000, 900, 9, 0)
        assert lab.quota(GROUP, 32) == (77, 0, 3, 0)


def test_root_owns_what_mkfs_made() -> None:
    with laboratory(quota=True) as lab:
        assert lab.quota(USER, 0)[2] == 1
        assert lab.quota(GROUP, 0)[2] == 1


@pytest.mark.parametrize("bsize", [512, 4096])
@pytest.mark.parametrize("uid", [1, 46, 5000, 70_000, 0x7FFFFFFF, 0xFFFFFFFE])
def test_the_quota_file_grows_to_any_id(bsize: int, uid: int) -> None:
    """Records that cross a block, holes, new heights; neighbours keep what they have."""
    dev = fresh(64, bsize)
    with laboratory(dev, quota=True) as lab:
        for i in range(3):
            lab.alloc(lab.owner(FILE, uid=uid - i if uid > 2 else uid + i, gid=uid), 4)
        free = lab.statfs()[1]
        lab.quota_sync()
        assert lab.statfs()[1] < free or uid == 1
        assert lab.statfs() == lab.statfs(slow=True)
    with laboratory(dev, quota=True) as lab:
        for i in range(3):
            assert lab.quota(USER, uid - i if uid > 2 else uid + i) == (0, 0, 4, 0)
        assert lab.quota(GROUP, uid) == (0, 0, 12, 0)
        assert lab.quota(USER, 0)[2] == 1


def test_changes_that_were_not_folded_are_found_by_the_next_mount() -> None:
    dev = fresh()
    with laboratory(dev, quota=True) as lab:
        for uid in range(1, 600):
            lab.alloc(lab.owner(FILE, uid=uid, gid=9999), uid % 5 + 1)
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(USER, 599) == (0, 0, 599 % 5 + 1, 599 % 5 + 1)
        total = sum(uid % 5 + 1 for uid in range(1, 600))
        assert lab.quota(GROUP, 9999) == (0, 0, total, total)
        lab.quota_sync()
        assert lab.quota(GROUP, 9999) == (0, 0, total, 0)
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(GROUP, 9999) == (0, 0, total, 0)
        assert all(lab.quota(USER, uid) == (0, 0, uid % 5 + 1, 0) for uid in range(1, 600))


def crash_and_replay(lab: SpaceLab, dev: MemoryDevice, bsize: int = 4096) -> None:
    """Stops the laboratory where it is and replays its journal, as a mount would."""
    journal, master, local = lab.addresses
    lab.close(crash=True)
    Journal(dev, bsize, journal).recover(master_statfs=master, local_statfs=local)


@pytest.mark.parametrize("fold", [False, True])
def test_a_crash_loses_no_committed_charge(fold: bool) -> None:
    dev = fresh()
    lab = SpaceLab(dev, quota=True)
    lab.alloc(lab.owner(FILE, uid=4, gid=4), 20)
    lab.flush()
    if fold:
        lab.quota_sync()
        lab.flush()
    numbers = lab.statfs()
    lab.alloc(lab.owner(FILE, uid=4, gid=4), 5)
    crash_and_replay(lab, dev)
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(USER, 4) == (0, 0, 20, 0 if fold else 20)
        assert lab.statfs() == lab.statfs(slow=True) == numbers
        lab.quota_sync()
        assert lab.quota(USER, 4) == (0, 0, 20, 0)


def test_a_change_that_comes_back_to_nothing_leaves_nothing() -> None:
    dev = fresh()
    with laboratory(dev, quota=True) as lab:
        owner = lab.owner(FILE, uid=8, gid=8)
        blk = lab.alloc(owner, 6)[0][0]
        lab.free(blk, 6, owner=owner)
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(USER, 8) == (0, 0, 0, 0)


def test_usage_never_goes_below_nothing() -> None:
    dev = fresh()
    with laboratory(dev) as lab:
        blk = lab.alloc(lab.owner(FILE, uid=3, gid=3), 50)[0][0]
    with laboratory(dev, quota=True) as lab:
        lab.free(blk, 50, owner=lab.owner(FILE, uid=3, gid=3))
        lab.quota_sync()
        assert lab.quota(USER, 3) == (0, 0, 0, 0)


def test_chown_moves_the_charge_and_asks_for_it() -> None:
    with laboratory(quota=True) as lab:
        owner = lab.owner(FILE, uid=10, gid=20)
        lab.alloc(owner, 25)
        lab.set_quota(USER, 11, limit=24)
        with pytest.raises(OSError) as over:
            lab.chown(owner, 11, 20, asker=10)
        assert over.value.errno == errno.EDQUOT
        lab.chown(owner, 12, 20)
        assert lab.quota(USER, 10)[2] == 0
        assert lab.quota(USER, 12)[2] == 25
        assert lab.quota(GROUP, 20)[2] == 25
        lab.chown(owner, 12, 21)
        assert lab.quota(GROUP, 20)[2] == 0
        assert lab.quota(GROUP, 21)[2] == 25


def test_more_ids_than_the_change_file_has_room_for() -> None:
    """A quota_change of 1 MiB in 512-byte blocks holds 61,440 records: then folding makes room."""
    dev = fresh(64, 512)
    with laboratory(dev, quota=True) as lab:
        owner = lab.owner(DIRECTORY)
        for uid in range(1, 62_000):
            lab.become(owner, uid, 1)
            lab.alloc(owner, 1)
        assert lab.quota(USER, 1) == (0, 0, 1, 0)
        assert lab.quota(USER, 61_999) == (0, 0, 1, 1)
        assert lab.quota(GROUP, 1)[2] == 61_999
        assert lab.statfs() == lab.statfs(slow=True)


def test_threads_charge_and_fold_at_once() -> None:
    dev = fresh()
    with laboratory(dev, quota=True) as lab:
        used = [0] * 5
        lock = threading.Lock()
        failed: list[OSError] = []

        def work(who: int) -> None:
            try:
                for i in range(200):
                    uid = (who + i) % 5
                    owner = lab.owner(FILE, uid=100 + uid, gid=77)
                    n = len(blocks_of(lab.alloc(owner, i % 7 + 1)))
                    lab.drop_reservation(owner)
                    with lock:
                        used[uid] += n
                    if i % 20 == 0:
                        lab.quota_sync()
            except OSError as err:
                failed.append(err)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "deadlock"
        assert failed == []
        assert [lab.quota(USER, 100 + i)[2] for i in range(5)] == used
        assert lab.quota(GROUP, 77)[2] == sum(used)
        lab.quota_sync()
    with laboratory(dev, quota=True) as lab:
        assert [lab.quota(USER, 100 + i) for i in range(5)] == [(0, 0, n, 0) for n in used]


# ---- statfs


def test_statfs_folds_into_the_master_file() -> None:
    dev = fresh()
    with laboratory(dev) as lab:
        numbers = lab.statfs()
        lab.alloc(lab.owner(FILE), 11)
        lab.alloc(lab.owner(DIRECTORY), 1, dinode=True)
        after = lab.statfs()
        assert after == (numbers[0], numbers[1] - 12, numbers[2] + 1)
        lab.statfs_sync()
        assert lab.statfs() == after
        lab.alloc(lab.owner(FILE), 3)
    with laboratory(dev) as lab:
        assert lab.statfs() == (after[0], after[1] - 3, after[2]) == lab.statfs(slow=True)
