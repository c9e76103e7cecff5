/* Writes that the target has acknowledged and may still forget.
 *
 * They are kept in the order of their acknowledgement until a flush that began after it succeeded. After every login
 * they are sent again, in that order where they overlap, before anything else: so what the target holds is what it
 * would hold had it never gone away, and the flush that follows makes all of it durable.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void keep_acknowledged(struct gi_device *d, struct cmd *c)
{
    if (!d->geo.volatile_cache) {
        free(c->copy);
        c->copy = NULL;
        return;
    }
    if (!c->copy) {
        if (!c->fua)
            d->acked++;
        return;
    }
    /* One with FUA too: an older write below it must not come back alone. */
    d->acked++;
    c->copy->number = d->acked;
    if (d->kept_tail)
        d->kept_tail->next = c->copy;
    else
        d->kept_head = c->copy;
    d->kept_tail = c->copy;
    d->kept_bytes += c->copy->len;
    d->n_kept++;
    c->copy = NULL;
}

void keep_flushed(struct gi_device *d, uint64_t upto)
{
    struct kept *k;

    if (upto > d->flushed)
        d->flushed = upto;
    while ((k = d->kept_head) && k->number <= upto) {
        d->kept_head = k->next;
        d->kept_bytes -= k->len;
        d->n_kept--;
        free(k);
    }
    if (!d->kept_head)
        d->kept_tail = NULL;
    pthread_cond_broadcast(&d->changed);
}

void keep_drop_all(struct gi_device *d)
{
    keep_flushed(d, UINT64_MAX);
    d->flushed = d->acked;
}

/* A batch whose caller was told of an error: its writes must not come back when others may have the disk. */
void keep_forget(struct gi_device *d, uint64_t owner)
{
    struct kept **at = &d->kept_head, *k;

    while (d->state == ST_REPLAY)               /* they are being sent */
        pthread_cond_wait(&d->changed, &d->lock);
    if (d->state == ST_DEAD)
        return;                                 /* all of them go, as soon as nothing points at them */
    d->kept_tail = NULL;
    while ((k = *at) != NULL) {
        if (k->owner != owner) {
            d->kept_tail = k;
            at = &k->next;
            continue;
        }
        *at = k->next;
        d->kept_bytes -= k->len;
        d->n_kept--;
        free(k);
    }
    if (!d->kept_head)
        d->flushed = d->acked;
    pthread_cond_broadcast(&d->changed);
}

static int overlaps(const struct kept *k, const struct cmd *c)
{
    return k->off < c->off + c->len && c->off < k->off + k->len;
}

/* A free command for the next kept write; NULL if none is free or one in flight overlaps it. */
static struct cmd *slot_for(struct gi_device *d, const struct kept *k)
{
    struct cmd *found = NULL;

    for (int i = 0; i < REPLAY_DEPTH; i++) {
        struct cmd *c = &d->replays[i];
        if (!c->d)
            found = c;
        else if (overlaps(k, c))
            return NULL;
    }
    return found;
}

void replay_begin(struct gi_device *d)
{
    memset(d->replays, 0, sizeof(d->replays));
    d->replays_flying = 0;
    pthread_mutex_lock(&d->lock);
    d->replay_next = d->kept_head;
    d->state = ST_REPLAY;
    pthread_mutex_unlock(&d->lock);
    replay_more(d);
}

/* Nobody else touches the kept writes meanwhile: no command of a caller is under way. */
void replay_more(struct gi_device *d)
{
    struct cmd *c;

    while (d->replay_next && !d->lost && (c = slot_for(d, d->replay_next)) != NULL) {
        struct kept *k = d->replay_next;
        uint8_t cdb[CDB_BYTES] = {0x8a};
        uint64_t lba = k->off / d->geo.block_bytes;
        uint32_t blocks = k->len / d->geo.block_bytes;
        struct scsi_iovec *iov = &d->replay_iov[c - d->replays];

        for (int i = 0; i < 8; i++)
            cdb[2 + i] = (uint8_t)(lba >> (56 - 8 * i));
        for (int i = 0; i < 4; i++)
            cdb[10 + i] = (uint8_t)(blocks >> (24 - 8 * i));
        cmd_prepare(c, d, K_REPLAY, cdb, sizeof(cdb));
        c->dir = SCSI_XFER_WRITE;
        c->off = k->off;
        c->len = k->len;
        iov->iov_base = k->data;
        iov->iov_len = k->len;
        c->iov = iov;
        c->n_iov = 1;
        if (cmd_send(c) != 0) {
            session_lost(d, "cannot send: %s", iscsi_get_error(d->ctx));
            return;
        }
        d->replay_next = k->next;
        d->replays_flying++;
        d->replayed++;
    }
    if (!d->replay_next && !d->replays_flying && !d->lost)
        session_up(d);
}

void replay_answered(struct gi_device *d, struct cmd *c, int err)
{
    if (err) {
        session_die(d, err, err == -EBADE ? "a reservation keeps this node from repeating its writes"
                                          : "the target refuses to take unflushed writes again");
        return;
    }
    memset(c, 0, sizeof(*c));
    d->replays_flying--;
    replay_more(d);
}
