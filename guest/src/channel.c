/* Non-blocking I/O on the control port. A virtio port whose host end is closed reads as end of file
 * and polls as POLLHUP; both only mean "not now". */
#include "channel.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void channel_init(struct channel *c, int fd)
{
    c->fd = fd;
    c->connected = true;
    channel_reset(c);
}

void channel_reset(struct channel *c)
{
    c->lost = false;
    c->in_length = 0;
    c->in_at = 0;
    c->out.start = 0;
    c->out.end = 0;
}

bool channel_read(struct channel *c)
{
    if (c->in_at > 0) {
        memmove(c->in, c->in + c->in_at, c->in_length - c->in_at);
        c->in_length -= c->in_at;
        c->in_at = 0;
    }
    while (c->in_length < sizeof(c->in)) {
        ssize_t got = read(c->fd, c->in + c->in_length, sizeof(c->in) - c->in_length);

        if (got > 0)
            c->in_length += (size_t)got;
        else if (got == 0)
            return false;
        else if (errno != EINTR)
            return errno == EAGAIN;
    }
    return true;
}

enum frame_result channel_next(struct channel *c, struct frame *f)
{
    struct reader r = {.data = c->in + c->in_at, .length = c->in_length - c->in_at};
    uint32_t length;

    if (c->lost) {
        c->in_at = c->in_length;
        return FRAME_NONE;
    }
    if (r.length < HEADER_BYTES)
        return FRAME_NONE;
    length = read_u32(&r);
    f->type = read_u16(&r);
    if (length > MAX_HOST_PAYLOAD_BYTES || read_u16(&r) != 0) {
        c->lost = true;
        return FRAME_LOST;
    }
    if (r.length - HEADER_BYTES < length)
        return FRAME_NONE;
    f->payload = c->in + c->in_at + HEADER_BYTES;
    f->length = length;
    c->in_at += HEADER_BYTES + length;
    return FRAME_WHOLE;
}

void channel_flush(struct channel *c)
{
    struct queue *q = &c->out;

    while (q->start < q->end) {
        ssize_t sent = write(c->fd, q->bytes + q->start, q->end - q->start);

        if (sent > 0)
            q->start += (size_t)sent;
        else if (sent == 0 || errno != EINTR)
            return; /* full, or nobody there: the poll loop comes back */
    }
    q->start = 0;
    q->end = 0;
}
