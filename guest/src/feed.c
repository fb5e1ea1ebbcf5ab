/* The stdin ring. Non-blocking; a process that never reads only keeps its own credit. */
#include "feed.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void feed_open(struct feed *f, int fd)
{
    f->fd = fd;
    f->eof = false;
    f->broken = false;
    f->start = 0;
    f->length = 0;
}

int feed_add(struct feed *f, uint32_t spid, struct span data, struct error *err)
{
    uint32_t end = (f->start + f->length) % STDIN_WINDOW_BYTES;
    size_t first = STDIN_WINDOW_BYTES - end;

    if (f->fd < 0 || f->broken || f->eof)
        return error_set(err, ERROR_STDIN_CLOSED, 0, "stdin of spid %u is closed", spid);
    if (data.length > STDIN_WINDOW_BYTES - f->length)
        return error_set(err, ERROR_LIMIT, 0, "stdin of spid %u: %zu bytes, %u in the window", spid,
                         data.length, STDIN_WINDOW_BYTES - f->length);
    if (first > data.length)
        first = data.length;
    memcpy(f->bytes + end, data.data, first);
    memcpy(f->bytes, data.data + first, data.length - first);
    f->length += (uint32_t)data.length;
    return 0;
}

static void break_off(struct feed *f, uint32_t spid, int errno_value, struct queue *out)
{
    struct error err;

    f->broken = true;
    f->length = 0;
    (void)error_set(&err, ERROR_STDIN_CLOSED, errno_value, "stdin of spid %u is closed", spid);
    send_error(out, FRAME_STDIN, spid, &err);
}

void feed_step(struct feed *f, uint32_t spid, struct queue *out)
{
    uint32_t taken = 0;

    while (f->fd >= 0 && f->length > 0) {
        uint32_t run = STDIN_WINDOW_BYTES - f->start;
        ssize_t written = write(f->fd, f->bytes + f->start, run < f->length ? run : f->length);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno != EAGAIN)
            break_off(f, spid, errno, out);
        if (written <= 0)
            break;
        f->start = (f->start + (uint32_t)written) % STDIN_WINDOW_BYTES;
        f->length -= (uint32_t)written;
        taken += (uint32_t)written;
    }
    if (taken > 0)
        send_stdin_credit(out, spid, taken);
    if (f->broken || (f->eof && f->length == 0))
        close_descriptor(&f->fd);
}
