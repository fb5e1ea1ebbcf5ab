/* The reader and the queue. docs/guest-protocol.md section 2. */
#include "frames.h"

#include <string.h>

struct span read_bytes(struct reader *r, size_t length)
{
    struct span none = {NULL, 0};
    struct span got;

    if (r->bad || r->length - r->at < length) {
        r->bad = true;
        return none;
    }
    got.data = r->data + r->at;
    got.length = length;
    r->at += length;
    return got;
}

static uint64_t read_little_endian(struct reader *r, size_t bytes)
{
    struct span s = read_bytes(r, bytes);
    uint64_t value = 0;

    for (size_t i = s.length; i-- > 0;)
        value = value << 8 | s.data[i];
    return value;
}

uint8_t read_u8(struct reader *r)
{
    return (uint8_t)read_little_endian(r, 1);
}

uint16_t read_u16(struct reader *r)
{
    return (uint16_t)read_little_endian(r, 2);
}

uint32_t read_u32(struct reader *r)
{
    return (uint32_t)read_little_endian(r, 4);
}

uint64_t read_u64(struct reader *r)
{
    return read_little_endian(r, 8);
}

struct span read_rest(struct reader *r)
{
    return read_bytes(r, r->bad ? 0 : r->length - r->at);
}

struct span read_str(struct reader *r, size_t max)
{
    struct span s = read_bytes(r, read_u16(r));

    if (s.length > max || (s.length > 0 && memchr(s.data, 0, s.length) != NULL))
        r->bad = true;
    return s;
}

bool read_done(const struct reader *r)
{
    return !r->bad && r->at == r->length;
}

size_t queue_room(const struct queue *q)
{
    return QUEUE_BYTES - (q->end - q->start);
}

bool frame_start(struct queue *q, enum guest_frame type, size_t payload)
{
    if (payload > MAX_GUEST_PAYLOAD_BYTES || queue_room(q) < HEADER_BYTES + payload)
        return false;
    if (QUEUE_BYTES - q->end < HEADER_BYTES + payload) {
        memmove(q->bytes, q->bytes + q->start, q->end - q->start);
        q->end -= q->start;
        q->start = 0;
    }
    put_u32(q, (uint32_t)payload);
    put_u16(q, (uint16_t)type);
    put_u16(q, 0);
    return true;
}

void put_bytes(struct queue *q, const void *data, size_t length)
{
    memcpy(q->bytes + q->end, data, length);
    q->end += length;
}

static void put_little_endian(struct queue *q, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        q->bytes[q->end++] = (uint8_t)(value >> (8 * i));
}

void put_u8(struct queue *q, uint8_t value)
{
    put_little_endian(q, value, 1);
}

void put_u16(struct queue *q, uint16_t value)
{
    put_little_endian(q, value, 2);
}

void put_u32(struct queue *q, uint32_t value)
{
    put_little_endian(q, value, 4);
}

void put_u64(struct queue *q, uint64_t value)
{
    put_little_endian(q, value, 8);
}
