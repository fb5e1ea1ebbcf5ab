/* Frames as bytes: a checked reader for payloads, and the bounded queue towards the host.
 * docs/guest-protocol.md section 2. Knows no message's meaning; messages.[ch] do. */
#ifndef CONTREE_FRAMES_H
#define CONTREE_FRAMES_H

#include <stdbool.h>
#include <sys/types.h>

#include "wire.h"

/* A cursor over one payload. The first read past the end sets `bad`; later reads give zeros. */
struct reader {
    const uint8_t *data;
    size_t length;
    size_t at;
    bool bad;
};

/* Bytes inside a payload; not terminated. */
struct span {
    const uint8_t *data;
    size_t length;
};

uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
struct span read_bytes(struct reader *r, size_t length);
struct span read_rest(struct reader *r);
/* A `str` of at most max bytes with no zero byte in it, else bad. */
struct span read_str(struct reader *r, size_t max);
/* True if everything was there and nothing is left over. */
bool read_done(const struct reader *r);

/* Frames on their way to the host: whole frames go in, bytes come out. */
enum { QUEUE_BYTES = 262144 };

struct queue {
    size_t start; /* of the unsent bytes */
    size_t end;
    uint8_t bytes[QUEUE_BYTES];
};

size_t queue_room(const struct queue *q);
/* Starts a frame: reserves its bytes and writes the header. Returns false, and queues nothing, when
 * there is no room: callers ask queue_room first. The put_* that follow fill exactly payload
 * bytes. */
bool frame_start(struct queue *q, enum guest_frame type, size_t payload);
void put_u8(struct queue *q, uint8_t value);
void put_u16(struct queue *q, uint16_t value);
void put_u32(struct queue *q, uint32_t value);
void put_u64(struct queue *q, uint64_t value);
void put_bytes(struct queue *q, const void *data, size_t length);

#endif
