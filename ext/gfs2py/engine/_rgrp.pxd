"""Resource groups: finding, reserving, allocating and freeing blocks. Source of behaviour: fs/gfs2/rgrp.c.

Everything others need is cimported from here; it lives in _rgrp_core (reading, locking), _rgrp_free (freeing, commit,
discard) and _rgrp_alloc (reservations, allocation).

What the log must do, or a block freed by an uncommitted transaction is given away too early:
  rgrps_at_switch(sd)     in the exclusive moment in which the running transaction becomes the committing one
  rgrps_after_commit(sd)  when that transaction is durable and before the next switch; not under log.lock
The two strictly alternate. A group's own mutex (rgrpd.mx) is innermost but for log.lock; neither waits for a glock.

Lock order among groups: an operation that needs several locks them by ascending address. inplace_reserve may come when
groups are held already (it only tries those below); rgrp_lock below a held group gives -EDEADLK if that one is busy.
So: rgrp_lock what is to be freed or unlinked first, inplace_reserve last. Its holder (cx) may lock a group again.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, rgrpd, sbd
from gfs2py.engine._rgrp_alloc cimport (inplace_release, inplace_reserve, inplace_reserve_orlov, rgrp_alloc, rs_drop)
from gfs2py.engine._rgrp_core cimport (rgrp_blk_state, rgrp_each_unlinked, rgrp_find, rgrp_forget, rgrp_lock,
                                       rgrp_trans_blocks, rgrp_unlock, rgrps_destroy, rgrps_read)
from gfs2py.engine._rgrp_free cimport (rgrp_fitrim, rgrp_free, rgrp_free_di, rgrp_relink_di, rgrp_unlink_di,
                                       rgrps_after_commit, rgrps_at_switch)
