/* The control port: bytes in, whole frames out, and the queue back to the host. */
#ifndef CONTREE_CHANNEL_H
#define CONTREE_CHANNEL_H

#include "frames.h"

struct channel {
    int fd;
    bool connected;   /* the host's end is open, as far as the last look could tell */
    bool lost;        /* framing is lost: everything until the host reconnects is dropped */
    size_t in_length; /* bytes in `in`, from 0 */
    size_t in_at;     /* of which are consumed */
    uint8_t in[HEADER_BYTES + MAX_HOST_PAYLOAD_BYTES];
    struct queue out;
};

struct frame {
    uint16_t type;
    uint8_t *payload; /* valid until the next channel_read */
    size_t length;
};

enum frame_result { FRAME_NONE, FRAME_WHOLE, FRAME_LOST };

void channel_init(struct channel *c, int fd);
/* Takes what the port holds and the buffer has room for. Returns false when the host hung up. */
bool channel_read(struct channel *c);
enum frame_result channel_next(struct channel *c, struct frame *f);
/* Writes what the port takes now; never waits. */
void channel_flush(struct channel *c);
/* Drops half-received and unsent frames: whoever connects next starts afresh. */
void channel_reset(struct channel *c);

#endif
