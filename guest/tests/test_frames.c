/* The reader, the queue and the channel: bounds, order, compaction, lost framing. Plain calls on
 * plain values; the channel reads from a pipe. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "check.h"
#include "messages.h"

static struct queue queue;
static struct channel channel;

static void test_reader_refuses_to_read_past_the_end(void)
{
    const uint8_t bytes[] = {1, 2, 3};
    struct reader r = {.data = bytes, .length = sizeof(bytes)};

    CHECK(read_u16(&r) == 0x0201);
    CHECK(!read_done(&r));
    CHECK(read_u32(&r) == 0);
    CHECK(r.bad);
    CHECK(read_u8(&r) == 0); /* bad stays bad, though a byte is there */
    CHECK(!read_done(&r));
}

static void test_reader_refuses_zero_bytes_and_long_text(void)
{
    const uint8_t with_zero[] = {2, 0, 'a', 0};
    const uint8_t plain[] = {2, 0, 'a', 'b'};
    struct reader r = {.data = with_zero, .length = sizeof(with_zero)};

    (void)read_str(&r, 10);
    CHECK(r.bad);
    r = (struct reader){.data = plain, .length = sizeof(plain)};
    (void)read_str(&r, 1);
    CHECK(r.bad);
    r = (struct reader){.data = plain, .length = sizeof(plain)};
    CHECK(read_str(&r, 2).length == 2 && read_done(&r));
}

static void test_a_full_queue_refuses_and_keeps_its_frames_in_order(void)
{
    static uint8_t chunk[MAX_OUTPUT_CHUNK_BYTES];
    struct channel *c = &channel;
    size_t sent = 0, seen = 0;

    memset(&queue, 0, sizeof(queue));
    while (queue_room(&queue) >= HEADER_BYTES + 5 + sizeof(chunk))
        send_output(&queue, (uint32_t)++sent, 1, chunk, sizeof(chunk));
    CHECK(sent == 7);
    CHECK(!frame_start(&queue, FRAME_OUTPUT, 5 + sizeof(chunk)));
    /* Take half, then add: the rest must be moved down, not lost. */
    c->in_length = 0;
    memcpy(c->in, queue.bytes, 100000);
    c->in_length = 100000;
    queue.start = 100000;
    send_output(&queue, (uint32_t)++sent, 1, chunk, sizeof(chunk));
    memcpy(c->in + c->in_length, queue.bytes + queue.start, queue.end - queue.start);
    c->in_length += queue.end - queue.start;
    for (struct frame f; channel_next(c, &f) == FRAME_WHOLE;) {
        struct reader r = {.data = f.payload, .length = f.length};

        CHECK(f.type == FRAME_OUTPUT && read_u32(&r) == ++seen);
    }
    CHECK(seen == sent);
}

static void test_a_frame_cut_anywhere_arrives_whole(void)
{
    const uint8_t frame[] = {4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
    int ends[2];
    struct frame f;

    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    channel_init(&channel, ends[0]);
    for (size_t i = 0; i < sizeof(frame); i++) {
        CHECK(channel_next(&channel, &f) == FRAME_NONE);
        CHECK(write(ends[1], frame + i, 1) == 1);
        CHECK(channel_read(&channel));
    }
    CHECK(channel_next(&channel, &f) == FRAME_WHOLE && f.type == FRAME_HELLO && f.length == 4);
    CHECK(channel_next(&channel, &f) == FRAME_NONE);
    close(ends[1]);
    CHECK(!channel_read(&channel));
    close(ends[0]);
}

static void test_lost_framing_is_told_once_and_ended_by_reset(void)
{
    const uint8_t too_long[] = {1, 0, 16, 0, 1, 0, 0, 0};
    const uint8_t reserved[] = {0, 0, 0, 0, 11, 0, 1, 0};
    const uint8_t good[] = {0, 0, 0, 0, 11, 0, 0, 0};
    struct frame f;

    channel_init(&channel, -1);
    memcpy(channel.in, too_long, 8);
    memcpy(channel.in + 8, good, 8);
    channel.in_length = 16;
    CHECK(channel_next(&channel, &f) == FRAME_LOST);
    CHECK(channel_next(&channel, &f) == FRAME_NONE);
    channel_reset(&channel);
    memcpy(channel.in, good, 8);
    memcpy(channel.in + 8, reserved, 8);
    channel.in_length = 16;
    CHECK(channel_next(&channel, &f) == FRAME_WHOLE && f.type == FRAME_SHUTDOWN);
    CHECK(channel_next(&channel, &f) == FRAME_LOST);
}

int main(void)
{
    test_reader_refuses_to_read_past_the_end();
    test_reader_refuses_zero_bytes_and_long_text();
    test_a_full_queue_refuses_and_keeps_its_frames_in_order();
    test_a_frame_cut_anywhere_arrives_whole();
    test_lost_framing_is_told_once_and_ended_by_reset();
    return 0;
}
