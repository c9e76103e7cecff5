"""Directory and unused resources."""
from dlm.core._base cimport E_BADR, E_INVAL, E_NOMEM, E_NOTBLK, dl_add_tail, dl_del, dl_empty
from dlm.core._engine cimport RSB_MASTER_UNCERTAIN, RSB_NEW_MASTER, TOSS_MAX
from dlm.core._members cimport is_removed
from dlm.core._send cimport send_remove
from dlm.core._table cimport create_rsb, free_rsb, search_rsb, toss_rsb, untoss_rsb
from dlm.core._wire cimport RESNAME_MAX, jhash
from libc.stdint cimport uint8_t


cdef int32_t hash_to_node(const dlm_ls* ls, uint32_t hash) noexcept nogil:
    if ls.n_members <= 1 or ls.total_weight == 0:
        return ls.our_nodeid
    return ls.node_array[(hash >> 16) % ls.total_weight]


cdef int find_tossed(dlm_ls* ls, dlm_rsb* r, bint from_local, bint from_dir, bint from_other) noexcept nogil:
    """Back into use; who the master is may have changed while nobody here looked."""
    if r.master_nodeid != ls.our_nodeid:
        if from_other:
            return -E_NOTBLK
        if from_dir:
            # The directory node decides.
            r.master_nodeid = ls.our_nodeid
            r.nodeid = 0
            r.flags &= ~<uint32_t>RSB_MASTER_UNCERTAIN
            r.first_lkid = 0
        elif from_local and r.master_nodeid:
            r.flags |= RSB_MASTER_UNCERTAIN
            r.first_lkid = 0
    untoss_rsb(ls, r)
    return 0


cdef int find_rsb(dlm_ls* ls, const void* name, uint32_t length, int32_t from_nodeid, int how,
                  dlm_rsb** out) noexcept nogil:
    cdef uint32_t hash = jhash(<const uint8_t*>name, length)
    cdef int32_t dir_nodeid = hash_to_node(ls, hash)
    cdef bint from_local = how == FIND_LOCAL
    cdef bint from_dir = how == FIND_REMOTE and from_nodeid == dir_nodeid
    cdef bint from_other = how == FIND_REMOTE and from_nodeid != dir_nodeid
    cdef dlm_rsb* r = search_rsb(ls, name, length, hash)
    cdef int error
    if r != NULL:
        if r.tossed:
            error = find_tossed(ls, r, from_local, from_dir, from_other)
            if error:
                return error
        r.refs += 1
        out[0] = r
        return 0
    # A request from a node that trusts an old answer: as directory node or at its word we become master again.
    if not (from_local or from_dir or (from_other and dir_nodeid == ls.our_nodeid)):
        return -E_BADR
    r = create_rsb(ls, name, length, hash)
    if r == NULL:
        return -E_NOMEM
    r.refs = 1
    r.dir_nodeid = dir_nodeid
    if from_dir or dir_nodeid == ls.our_nodeid:
        r.master_nodeid = ls.our_nodeid
        r.nodeid = 0
    else:
        r.master_nodeid = 0
        r.nodeid = -1
    out[0] = r
    return 0


cdef void set_master_to(dlm_ls* ls, dlm_rsb* r, int32_t nodeid) noexcept nogil:
    """Another node than ours."""
    r.master_nodeid = nodeid
    r.nodeid = nodeid
    r.master_seq = ls.recover_seq


cdef void tell_master(dlm_ls* ls, dlm_rsb* r, int32_t from_nodeid, int how) noexcept nogil:
    """Corrects what we believe by what recovery brings to light."""
    cdef bint removed = is_removed(ls, r.master_nodeid, r.master_seq)
    r.dir_nodeid = ls.our_nodeid
    if how == LOOKUP_RECOVER_MASTER and removed:
        # The first to ask after the master's death becomes master. NEW_MASTER: our own locks go there as well.
        set_master_to(ls, r, from_nodeid)
        r.flags |= RSB_NEW_MASTER
    if how == LOOKUP_RECOVER_DIR and r.master_nodeid != ls.our_nodeid and (r.master_nodeid != from_nodeid or removed):
        # It became master in a recovery that was broken off before we heard of it; maybe it is back from the dead.
        set_master_to(ls, r, from_nodeid)
        r.flags |= RSB_NEW_MASTER
    if r.master_nodeid == 0:
        # We were about to ask ourselves: this node is first.
        set_master_to(ls, r, from_nodeid)


cdef int master_lookup(dlm_ls* ls, int32_t from_nodeid, const void* name, uint32_t length, int how,
                       int32_t* master) noexcept nogil:
    cdef uint32_t hash = jhash(<const uint8_t*>name, length)
    cdef dlm_rsb* r
    master[0] = -1
    if length > RESNAME_MAX or from_nodeid == ls.our_nodeid or hash_to_node(ls, hash) != ls.our_nodeid:
        return -E_INVAL
    r = search_rsb(ls, name, length, hash)
    if r == NULL:
        r = create_rsb(ls, name, length, hash)
        if r == NULL:
            return -E_NOMEM
        r.dir_nodeid = ls.our_nodeid
        set_master_to(ls, r, from_nodeid)
        toss_rsb(ls, r)
    else:
        tell_master(ls, r, from_nodeid, how)
        if r.tossed:
            r.toss_ns = ls.now_ns
            # Young again, or no longer one that may be forgotten.
            dl_del(&r.toss)
            if r.master_nodeid == ls.our_nodeid:
                dl_add_tail(&ls.tossed, &r.toss)
    master[0] = r.master_nodeid
    return 0


cdef void receive_remove(dlm_ls* ls, const wmsg* m) noexcept nogil:
    """The master has no use for the resource any more.

    If we do use it, the message crossed with a request of ours to that master, who will be master again.
    """
    cdef uint32_t hash = jhash(m.extra, m.extra_len)
    cdef dlm_rsb* r
    if hash_to_node(ls, hash) != ls.our_nodeid:
        ls.stats.refused += 1
        return
    r = search_rsb(ls, m.extra, m.extra_len, hash)
    if r == NULL or r.master_nodeid != m.from_nodeid:
        ls.stats.refused += 1
        return
    if r.tossed:
        free_rsb(ls, r)


cdef int64_t expire_tossed(dlm_ls* ls) noexcept nogil:
    cdef dlm_rsb* r
    if not ls.running:
        return 0
    while not dl_empty(&ls.tossed):
        r = <dlm_rsb*>ls.tossed.next.owner
        if r.toss_ns + ls.toss_after_ns > ls.now_ns and ls.toss_count <= TOSS_MAX:
            return r.toss_ns + ls.toss_after_ns
        if r.master_nodeid == ls.our_nodeid and r.dir_nodeid != ls.our_nodeid:
            send_remove(ls, r)
        free_rsb(ls, r)
    return 0


cdef void clear_tossed(dlm_ls* ls) noexcept nogil:
    """At the start of recovery: the directory is built anew from what is in use."""
    cdef uint32_t i
    cdef dlm_rsb* r
    cdef dlm_rsb* next
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            next = r.hnext
            if r.tossed:
                free_rsb(ls, r)
            r = next
