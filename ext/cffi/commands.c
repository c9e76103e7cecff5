/* From a batch of pieces to SCSI commands, and from an answer to what happens next: done, again, later. */
#include "internal.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_CMDS = 128, PAGE = 4096, HOLD_BUSY_MS = 20, HOLD_FULL_MS = 5, RAISE_AFTER = 64, FLUSH_FROM = 128 };
enum verdict { V_DONE, V_AGAIN, V_LATER };

static void put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static void put32(uint8_t *p, uint32_t v) { put16(p, v >> 16); put16(p + 2, v & 0xffff); }
static void put64(uint8_t *p, uint64_t v) { put32(p, (uint32_t)(v >> 32)); put32(p + 4, (uint32_t)v); }

/* -- lists ------------------------------------------------------------------------------------------------------- */

void list_add(struct cmd_list *l, struct cmd *c)
{
    c->next = NULL;
    c->prev = l->tail;
    if (l->tail)
        l->tail->next = c;
    else
        l->head = c;
    l->tail = c;
    l->n++;
}

void list_add_front(struct cmd_list *l, struct cmd *c)
{
    c->prev = NULL;
    c->next = l->head;
    if (l->head)
        l->head->prev = c;
    else
        l->tail = c;
    l->head = c;
    l->n++;
}

void list_remove(struct cmd_list *l, struct cmd *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        l->head = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        l->tail = c->prev;
    c->prev = c->next = NULL;
    l->n--;
}

/* -- sending ----------------------------------------------------------------------------------------------------- */

void cmd_prepare(struct cmd *c, struct gi_device *d, enum kind kind, const uint8_t *cdb, uint32_t cdb_len)
{
    memset(c, 0, sizeof(*c));
    c->d = d;
    c->kind = kind;
    memcpy(c->cdb, cdb, cdb_len);
    c->cdb_len = cdb_len;
    c->dir = SCSI_XFER_NONE;
}

/* libiscsi does not count the bytes of a read. A mark at the end of every page shows that nothing came there. */
static uint64_t *mark(const struct scsi_iovec *v, size_t n)
{
    size_t at = (n + 1) * PAGE;
    return (uint64_t *)((uint8_t *)v->iov_base + (at < v->iov_len ? at : v->iov_len) - sizeof(uint64_t));
}

static void plant_marks(struct cmd *c)
{
    for (int i = 0; i < c->n_iov; i++)
        for (size_t n = 0; n * PAGE < c->iov[i].iov_len; n++)
            memcpy(mark(&c->iov[i], n), &c->d->canary, sizeof(uint64_t));
}

static int marks_left(const struct cmd *c)
{
    for (int i = 0; i < c->n_iov; i++)
        for (size_t n = 0; n * PAGE < c->iov[i].iov_len; n++)
            if (memcmp(mark(&c->iov[i], n), &c->d->canary, sizeof(uint64_t)) == 0)
                return 1;
    return 0;
}

static void on_answer(struct iscsi_context *ctx, int status, void *data, void *private_data);

int cmd_send(struct cmd *c)
{
    struct gi_device *d = c->d;
    uint32_t lun = d->lun > 255 ? 0x4000 | d->lun : d->lun;     /* flat space addressing from 256 on (SAM) */

    c->task = scsi_create_task((int)c->cdb_len, c->cdb, c->dir, (int)c->len);
    if (!c->task)
        return -ENOMEM;
    if (c->dir == SCSI_XFER_WRITE) {
        scsi_task_set_iov_out(c->task, c->iov, c->n_iov);
    } else if (c->kind == K_READ) {
        plant_marks(c);
        scsi_task_set_iov_in(c->task, c->iov, c->n_iov);
    }
    c->sent_ns = gi_now();
    if (iscsi_scsi_command_async(d->ctx, (int)lun, c->task, on_answer, NULL, c) != 0) {
        scsi_free_scsi_task(c->task);
        c->task = NULL;
        return -ENOTCONN;
    }
    return 0;
}

/* Hands queued commands to libiscsi as far as the depth allows. Event thread, session up. */
void send_queued(struct gi_device *d, uint64_t now)
{
    pthread_mutex_lock(&d->lock);
    while (d->queue.n && d->flying.n < d->depth_now && !d->linger.n && now >= d->hold_ns && !d->lost) {
        struct cmd *c = d->queue.head;
        list_remove(&d->queue, c);
        list_add(&d->flying, c);
        if (c->kind == K_FLUSH)
            c->covers = d->acked;       /* those acknowledged before the target sees the flush */
        pthread_mutex_unlock(&d->lock);
        if (cmd_send(c) != 0)
            session_lost(d, "cannot send: %s", iscsi_get_error(d->ctx));
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
}

/* -- answers ----------------------------------------------------------------------------------------------------- */

static int sense_errno(int key, int ascq)
{
    switch (key) {
    case SCSI_SENSE_ILLEGAL_REQUEST:
        return ascq == 0x2500 ? -ENODEV : ascq == 0x2000 ? -EOPNOTSUPP : -EIO;
    case SCSI_SENSE_DATA_PROTECTION:
        return ascq == 0x2707 ? -ENOSPC : -EROFS;
    default:
        return -EIO;
    }
}

static enum verdict attention(struct gi_device *d, struct cmd *c, int ascq, int *err)
{
    int unflushed;

    if (++c->attentions > UNIT_ATTENTIONS_MAX) {
        *err = -EIO;
        return V_DONE;
    }
    pthread_mutex_lock(&d->lock);
    unflushed = d->acked > d->flushed && d->state == ST_UP;
    if (ascq == 0x2a01)                 /* mode parameters changed: the cache may be on now */
        d->geo.volatile_cache = 1;
    pthread_mutex_unlock(&d->lock);
    if (ascq >> 8 == 0x29 && unflushed)
        session_lost(d, "the target was reset (unit attention %04x) with writes that are not flushed", ascq);
    else if (ascq >> 8 == 0x2a && d->started)
        gi_say(d, "unit attention %04x: parameters, reservations or size changed", ascq);
    return V_AGAIN;
}

static enum verdict judge_sense(struct gi_device *d, struct cmd *c, int key, int ascq, int *err)
{
    switch (key) {
    case SCSI_SENSE_NO_SENSE:
    case SCSI_SENSE_RECOVERED_ERROR:
        return V_DONE;
    case SENSE_UNIT_ATTENTION:
        return attention(d, c, ascq, err);
    case SCSI_SENSE_NOT_READY:
        if (ascq >> 8 == 0x04 && c->kind != K_RAW)      /* becoming ready */
            return V_LATER;
        break;
    case SCSI_SENSE_COMMAND_ABORTED:
        if (c->kind != K_RAW && ++c->tries <= TRIES_MAX)
            return V_AGAIN;
        break;
    }
    *err = sense_errno(key, ascq);
    return V_DONE;
}

static void slow_down(struct gi_device *d, int full)
{
    pthread_mutex_lock(&d->lock);
    d->busy++;
    if (full && d->depth_now > 1)
        d->depth_now = d->flying.n / 2 > 0 ? d->flying.n / 2 : 1;
    d->good_since_full = 0;
    if (!d->trouble_ns) {
        d->trouble_ns = gi_now();
        d->say_gap_ns = 2000000000ULL;
        d->say_ns = d->trouble_ns + d->say_gap_ns;
        strcpy(d->why, full ? "the target's task set is full" : "the target is busy");
    }
    pthread_mutex_unlock(&d->lock);
}

static enum verdict judge(struct gi_device *d, struct cmd *c, int status, const struct scsi_task *task, int *err)
{
    *err = 0;
    c->answer.status = status;
    switch (status) {
    case SCSI_STATUS_GOOD:
    case SCSI_STATUS_CONDITION_MET:
        break;
    case SCSI_STATUS_CHECK_CONDITION:
        c->answer.key = task->sense.key;
        c->answer.ascq = task->sense.ascq;
        switch (judge_sense(d, c, (int)task->sense.key, task->sense.ascq, err)) {
        case V_AGAIN:
            return V_AGAIN;
        case V_LATER:
            slow_down(d, 0);
            return V_LATER;
        case V_DONE:
            break;
        }
        if (*err)
            return V_DONE;
        break;
    case SCSI_STATUS_RESERVATION_CONFLICT:
        *err = -EBADE;                  /* somebody took this node's registration away: it is fenced */
        return V_DONE;
    case SCSI_STATUS_TASK_SET_FULL:
    case SCSI_STATUS_BUSY:
        slow_down(d, status == SCSI_STATUS_TASK_SET_FULL);
        return V_LATER;
    case SCSI_STATUS_TASK_ABORTED:
        if (++c->tries <= TRIES_MAX)
            return V_AGAIN;
        *err = -EIO;
        return V_DONE;
    default:
        *err = -EIO;
        return V_DONE;
    }
    if (c->kind == K_READ && (task->residual_status == SCSI_RESIDUAL_UNDERFLOW || marks_left(c))) {
        if (++c->tries <= 2)
            return V_AGAIN;
        gi_say(d, "answers with less data than was read at %llu: I/O error", (unsigned long long)c->off);
        *err = -EIO;
    }
    if (c->kind == K_WRITE && task->residual_status == SCSI_RESIDUAL_UNDERFLOW)
        *err = -EIO;
    return V_DONE;
}

/* With the lock; the command is on no list. Its memory may be gone when this returns. */
void cmd_finish(struct cmd *c, int err)
{
    struct gi_device *d = c->d;

    if (c->copy) {
        d->pending_bytes -= c->len;
        if (err) {
            free(c->copy);
            c->copy = NULL;
            pthread_cond_broadcast(&d->changed);
        }
    }
    if (c->kind == K_WRITE && !err)
        keep_acknowledged(d, c);
    if (c->kind == K_FLUSH && !err)
        keep_flushed(d, c->covers);
    if (!err && d->state == ST_UP)
        d->trouble_ns = 0;
    c->err = err;
    if (c->op) {
        if (err && !c->op->err)
            c->op->err = err;
        if (--c->op->left == 0)
            pthread_cond_signal(&c->op->done);
    } else if (c == &d->self_flush) {
        d->self_flushing = 0;
        d->self_flush_err = err;
        d->self_flush_retry_ns = err ? gi_now() + 1000000000ULL : 0;
        pthread_cond_broadcast(&d->changed);
    }
}

void cmd_fail_all(struct gi_device *d, int err)
{
    struct cmd *c;

    while ((c = d->queue.head)) {
        list_remove(&d->queue, c);
        cmd_finish(c, err);
    }
    pthread_cond_broadcast(&d->changed);
}

static void settle(struct cmd *c, enum verdict v, int err)     /* with the lock; on no list */
{
    struct gi_device *d = c->d;

    if (v == V_DONE) {
        cmd_finish(c, err);
        return;
    }
    list_add_front(&d->queue, c);
    d->resent++;
    if (v == V_LATER)
        d->hold_ns = gi_now() + (c->answer.status == SCSI_STATUS_TASK_SET_FULL ? HOLD_FULL_MS : HOLD_BUSY_MS)
                     * 1000000ULL;
}

/* libiscsi's queue may still point into a write that was answered early: it is settled when that queue is empty. */
void release_lingering(struct gi_device *d)
{
    struct cmd *c;

    if (d->ctx && (iscsi_out_queue_length(d->ctx) || (iscsi_which_events(d->ctx) & 4 /* POLLOUT */)))
        return;
    pthread_mutex_lock(&d->lock);
    while ((c = d->linger.head)) {
        list_remove(&d->linger, c);
        scsi_free_scsi_task(c->task);
        c->task = NULL;
        settle(c, (enum verdict)c->verdict, c->err);
    }
    pthread_mutex_unlock(&d->lock);
}

static void own_answered(struct gi_device *d, struct cmd *c, enum verdict v, int err)
{
    if (v == V_AGAIN && c->kind != K_REPLAY && cmd_send(c) == 0)
        return;
    if (v != V_DONE)
        session_lost(d, "the target is not ready yet");
    else if (c->kind == K_REPLAY)
        replay_answered(d, c, err);
    else
        session_answered(d, c, err);
}

static void on_answer(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
    struct cmd *c = private_data;
    struct gi_device *d = c->d;
    struct scsi_task *task = c->task;
    enum verdict v;
    int err;

    (void)data;
    if (status == SCSI_STATUS_CANCELLED || status == SCSI_STATUS_TIMEOUT ||
        (status == SCSI_STATUS_ERROR && ++c->tries <= TRIES_MAX)) {
        session_lost(d, "%s", session_error(d));    /* what was in flight is collected when it is taken down */
        return;
    }
    d->heard_ns = gi_now();
    v = judge(d, c, status, task, &err);
    if (task->datain.data && c->in && task->datain.size > 0 && status != SCSI_STATUS_CHECK_CONDITION) {
        c->answer.got = (uint32_t)task->datain.size < c->len ? (uint32_t)task->datain.size : c->len;
        memcpy(c->in, task->datain.data, c->answer.got);
    }
    if (c->kind == K_READY || c->kind == K_CHECK || c->kind == K_REPLAY) {
        if (c->kind != K_REPLAY || status == SCSI_STATUS_GOOD) {    /* else the session ends and takes it along */
            scsi_free_scsi_task(task);
            c->task = NULL;
        }
        own_answered(d, c, v, err);
        return;
    }
    pthread_mutex_lock(&d->lock);
    list_remove(&d->flying, c);
    if (c->dir == SCSI_XFER_WRITE && status != SCSI_STATUS_GOOD) {
        c->err = err;
        c->verdict = (int)v;
        list_add(&d->linger, c);
    } else {
        scsi_free_scsi_task(task);
        c->task = NULL;
        if (v == V_DONE && !err && d->depth_now < d->depth && ++d->good_since_full >= RAISE_AFTER) {
            d->depth_now++;
            d->good_since_full = 0;
        }
        settle(c, v, err);
    }
    pthread_mutex_unlock(&d->lock);
}

/* -- callers ----------------------------------------------------------------------------------------------------- */

/* Queue commands and wait for all of them: 0 or the first error. */
static int run(struct gi_device *d, struct cmd *cmds, uint32_t n)
{
    struct op op = {.left = n};

    pthread_cond_init(&op.done, NULL);
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < n; i++) {
        cmds[i].op = &op;
        if (d->state == ST_DEAD || d->stop)
            cmd_finish(&cmds[i], d->dead_errno ? d->dead_errno : -ESHUTDOWN);
        else
            list_add(&d->queue, &cmds[i]);
    }
    gi_wake(d);
    while (op.left)
        pthread_cond_wait(&op.done, &d->lock);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_destroy(&op.done);
    return op.err;
}

/* Take a copy that is kept until the next flush; waits while too much is kept. */
static int take_copy(struct gi_device *d, struct cmd *c, uint64_t owner)
{
    struct kept *k;
    uint8_t *to;
    int err = 0;

    pthread_mutex_lock(&d->lock);
    while (d->kept_bytes && d->kept_bytes + d->pending_bytes + c->len > d->keep_bytes && !d->self_flush_err
           && d->state != ST_DEAD && !d->stop) {
        d->waiters++;
        gi_wake(d);
        pthread_cond_wait(&d->changed, &d->lock);
        d->waiters--;
    }
    if (d->state == ST_DEAD)
        err = d->dead_errno;
    else if (d->self_flush_err && d->kept_bytes + d->pending_bytes + c->len > d->keep_bytes)
        err = d->self_flush_err;
    pthread_mutex_unlock(&d->lock);
    if (err)
        return err;
    k = malloc(sizeof(*k) + c->len);
    if (!k)
        return -ENOMEM;
    k->next = NULL;
    k->off = c->off;
    k->owner = owner;
    k->len = c->len;
    to = k->data;
    for (int i = 0; i < c->n_iov; i++) {
        memcpy(to, c->iov[i].iov_base, c->iov[i].iov_len);
        to += c->iov[i].iov_len;
    }
    pthread_mutex_lock(&d->lock);
    d->pending_bytes += c->len;
    pthread_mutex_unlock(&d->lock);
    c->copy = k;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = (*(struct gi_piece *const *)a)->off, y = (*(struct gi_piece *const *)b)->off;
    return x < y ? -1 : x > y;
}

struct plan {                   /* how far a batch has been turned into commands */
    struct gi_piece **order;
    struct scsi_iovec *iov;     /* room for one per piece and one per command of a chunk */
    uint32_t n, at;
    uint64_t done, owner;       /* done: bytes of order[at] */
    int writing, fua, copies;
};

/* The next command: adjacent pieces together, up to what one command may move. */
static struct scsi_iovec *plan_one(struct gi_device *d, struct plan *p, struct cmd *c, struct scsi_iovec *iov)
{
    uint8_t cdb[CDB_BYTES] = {0};
    struct gi_piece *piece = p->order[p->at];
    uint64_t off = piece->off + p->done, take;

    cmd_prepare(c, d, p->writing ? K_WRITE : K_READ, cdb, sizeof(cdb));
    c->off = off;
    c->dir = p->writing ? SCSI_XFER_WRITE : SCSI_XFER_READ;
    c->fua = p->fua;
    c->iov = iov;
    c->first_piece = p->at;
    while (p->at < p->n && p->order[p->at]->off + p->done == off + c->len && c->n_iov < IOV_MAX_PIECES
           && c->len < d->geo.max_bytes) {
        piece = p->order[p->at];
        take = piece->len - p->done;
        if (take > d->geo.max_bytes - c->len)
            take = d->geo.max_bytes - c->len;
        iov->iov_base = (uint8_t *)piece->buf + p->done;
        iov->iov_len = take;
        iov++;
        c->n_iov++;
        c->len += (uint32_t)take;
        c->n_pieces = p->at - c->first_piece + 1;
        p->done += take;
        if (p->done == piece->len) {
            p->at++;
            p->done = 0;
        }
    }
    c->cdb[0] = p->writing ? 0x8a : 0x88;       /* WRITE(16), READ(16) */
    c->cdb[1] = p->fua ? 0x08 : 0;
    put64(c->cdb + 2, c->off / d->geo.block_bytes);
    put32(c->cdb + 10, c->len / d->geo.block_bytes);
    return iov;
}

/* One chunk of a batch; small enough that its copies fit. */
static int run_chunk(struct gi_device *d, struct plan *p, struct cmd *cmds, uint32_t room)
{
    struct scsi_iovec *iov = p->iov;
    uint32_t n = 0;
    uint64_t bytes = 0;
    int err = 0, bad = 0;

    while (n < room && p->at < p->n && bytes < d->keep_bytes / 8) {
        iov = plan_one(d, p, &cmds[n], iov);
        bytes += cmds[n].len;
        n++;
        if (p->copies && (bad = take_copy(d, &cmds[n - 1], p->owner)) != 0) {
            cmds[n - 1].err = bad;
            n--;
            break;
        }
    }
    if (n)
        err = run(d, cmds, n);
    for (uint32_t i = 0; i < n + (bad != 0); i++)
        for (uint32_t k = 0; cmds[i].err && k < cmds[i].n_pieces; k++)
            if (!p->order[cmds[i].first_piece + k]->res)
                p->order[cmds[i].first_piece + k]->res = cmds[i].err;
    return err ? err : bad;
}

static int flush_device(struct gi_device *d);

static int transfer(struct gi_device *d, int writing, struct gi_piece *pieces, uint32_t n, int fua)
{
    struct cmd one, *cmds = &one;
    struct gi_piece *order_one, **order = &order_one;
    struct scsi_iovec iov_one[2];
    struct plan p = {.iov = iov_one, .n = n, .writing = writing};
    uint32_t room = 1;
    int err = 0, first = 0, through;

    for (uint32_t i = 0; i < n; i++)
        pieces[i].res = 0;
    if (n == 0)
        return 0;
    if (n > 1 || pieces[0].len > d->geo.max_bytes) {
        room = CHUNK_CMDS;
        order = malloc(n * sizeof(*order));
        cmds = malloc(room * sizeof(*cmds));
        p.iov = malloc(((size_t)n + room) * sizeof(*p.iov));
        if (!order || !cmds || !p.iov) {
            first = -ENOMEM;
            goto out;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        order[i] = &pieces[i];
    if (n > 1)
        qsort(order, n, sizeof(*order), by_offset);
    p.order = order;
    pthread_mutex_lock(&d->lock);
    through = writing && d->geo.volatile_cache && (fua || d->cache == GI_THROUGH);
    /* Many commands that all must be durable: one flush instead of FUA for each. Below, FUA was measured as faster. */
    p.fua = through && d->geo.has_fua && (d->cache != GI_THROUGH || n < FLUSH_FROM || !d->geo.has_flush);
    if (through && !p.fua && d->cache == GI_THROUGH)
        p.owner = ++d->owners;
    p.copies = writing && d->geo.volatile_cache && (d->cache == GI_REPLAY || (d->cache == GI_THROUGH && !p.fua));
    pthread_mutex_unlock(&d->lock);
    while (p.at < p.n) {
        err = run_chunk(d, &p, cmds, room);
        if (err && !first)
            first = err;
        if (err == -ENOMEM || err == -ESHUTDOWN)
            break;
        if (err && d->state == ST_DEAD)
            break;
    }
    for (; err && p.at < p.n; p.at++)
        if (!order[p.at]->res)
            order[p.at]->res = err;
    if (through && !p.fua && !first)
        first = flush_device(d);
    if (first && p.owner) {
        pthread_mutex_lock(&d->lock);
        keep_forget(d, p.owner);
        pthread_mutex_unlock(&d->lock);
    }
out:
    if (order != &order_one)
        free(order);
    if (cmds != &one)
        free(cmds);
    if (p.iov != iov_one)
        free(p.iov);
    return first;
}

static int flush_device(struct gi_device *d)
{
    static const uint8_t cdb[10] = {0x35};              /* SYNCHRONIZE CACHE(10) of everything */
    struct cmd c;
    int needed, err;

    pthread_mutex_lock(&d->lock);
    err = d->state == ST_DEAD ? d->dead_errno : d->lost_writes ? -EIO : 0;
    needed = d->acked > d->flushed;
    pthread_mutex_unlock(&d->lock);
    if (err || !needed)
        return err;
    cmd_prepare(&c, d, K_FLUSH, cdb, sizeof(cdb));
    err = run(d, &c, 1);
    pthread_mutex_lock(&d->lock);
    if (!err && d->lost_writes)                         /* lost while the flush was under way */
        err = -EIO;
    pthread_mutex_unlock(&d->lock);
    return err;
}

static int discard(struct gi_device *d, uint64_t off, uint64_t len)
{
    static const uint8_t cdb[10] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0};      /* UNMAP, one descriptor */
    struct cmd *cmds;
    struct scsi_iovec iov[CHUNK_CMDS];
    uint64_t lba, left;
    int err = 0;

    if (!d->geo.max_unmap_blocks)
        return -EOPNOTSUPP;
    cmds = malloc(CHUNK_CMDS * sizeof(*cmds));
    if (!cmds)
        return -ENOMEM;
    lba = off / d->geo.block_bytes;
    left = len / d->geo.block_bytes;
    while (left && !err) {
        uint32_t n = 0;
        while (left && n < CHUNK_CMDS) {
            uint32_t take = left < d->geo.max_unmap_blocks ? (uint32_t)left : d->geo.max_unmap_blocks;
            struct cmd *c = &cmds[n];
            cmd_prepare(c, d, K_UNMAP, cdb, sizeof(cdb));
            c->dir = SCSI_XFER_WRITE;
            c->len = sizeof(c->small);
            put16(c->small, 22);
            put16(c->small + 2, 16);
            put64(c->small + 8, lba);
            put32(c->small + 16, take);
            iov[n].iov_base = c->small;
            iov[n].iov_len = c->len;
            c->iov = &iov[n];
            c->n_iov = 1;
            lba += take;
            left -= take;
            n++;
        }
        err = run(d, cmds, n);
    }
    free(cmds);
    return err;
}

int gi_command(struct gi_device *d, const uint8_t *cdb, uint32_t cdb_len, const void *out, uint32_t out_len,
               void *in, uint32_t in_len, struct gi_answer *answer)
{
    struct scsi_iovec iov = {(void *)out, out_len};
    struct cmd c;
    int err;

    if (cdb_len < 6 || cdb_len > CDB_BYTES || (out_len && in_len))
        return -EINVAL;
    cmd_prepare(&c, d, K_RAW, cdb, cdb_len);
    if (out_len) {
        c.dir = SCSI_XFER_WRITE;
        c.iov = &iov;
        c.n_iov = 1;
        c.len = out_len;
    } else if (in_len) {
        c.dir = SCSI_XFER_READ;
        c.in = in;
        c.len = in_len;
    }
    err = run(d, &c, 1);
    *answer = c.answer;
    return err;
}

static const struct gi_table table = {
    .version = GI_TABLE_VERSION, .piece_bytes = sizeof(struct gi_piece),
    .transfer = transfer, .flush = flush_device, .discard = discard, .close = gi_close,
};

const struct gi_table *gi_operations(void)
{
    return &table;
}
