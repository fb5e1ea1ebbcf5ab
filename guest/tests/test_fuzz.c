/* The decoders on arbitrary and on damaged bytes, under the sanitizers: they may refuse, never
 * stray. A fixed seed, so that a failure can be repeated; FUZZ_ROUNDS and FUZZ_SEED widen the
 * search. */
#include <string.h>

#include "channel.h"
#include "check.h"
#include "messages.h"

enum { MAX_FUZZ_BYTES = 600, DEFAULT_ROUNDS = 200000 };

static uint64_t random_state;
static struct channel channel;

/* xorshift64*; Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
static uint32_t random_number(uint32_t below)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)(random_state * 0x2545f4914f6cdd1dU >> 33) % below;
}

static size_t put(uint8_t *to, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(value >> (8 * i));
    return bytes;
}

/* A SPAWN that is valid, with a random number of random short strings. */
static size_t valid_spawn(uint8_t *p)
{
    size_t at = 0;

    at += put(p + at, 1 + random_number(9), 4);
    at += put(p + at, 0, 8);
    at += put(p + at, random_number(4), 4);
    at += put(p + at, 0, 8);
    at += put(p + at, 100, 8);
    at += put(p + at, 100, 8);
    at += put(p + at, 1, 2);
    p[at++] = '/';
    for (int list = 0; list < 2; list++) {
        uint32_t count = 1 + random_number(8);

        at += put(p + at, count, 4);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t length = random_number(20);

            at += put(p + at, length, 4);
            memset(p + at, 'a' + list, length);
            at += length;
        }
    }
    return at;
}

static void check_spawn(const struct spawn *m)
{
    CHECK(m->spid != 0 && m->cwd[0] == '/' && m->argv[0] != NULL);
    for (char **s = m->argv; *s != NULL; s++)
        CHECK(strlen(*s) <= MAX_FUZZ_BYTES);
    for (char **s = m->envp; *s != NULL; s++)
        CHECK(strlen(*s) <= MAX_FUZZ_BYTES);
}

/* The payload lies in memory of exactly its size, so that the sanitizer sees any step outside. */
static bool decode_all(const uint8_t *bytes, size_t length)
{
    static struct file_begin file;
    static struct spawn spawn;
    struct configure configure;
    uint8_t *exact = malloc(length + (length == 0));
    struct reader r;
    bool spawned;

    CHECK(exact != NULL);
    memcpy(exact, bytes, length);
    r = (struct reader){.data = exact, .length = length};
    (void)decode_configure(&r, &configure);
    r = (struct reader){.data = exact, .length = length};
    if (decode_file_begin(&r, &file))
        CHECK(file.path[0] == '/' && strlen(file.path) <= MAX_PATH_BYTES);
    spawned = decode_spawn(exact, length, &spawn);
    if (spawned)
        check_spawn(&spawn);
    free(exact);
    return spawned;
}

static void fuzz_channel(const uint8_t *bytes, size_t length)
{
    size_t frames = 0;

    channel_reset(&channel);
    memcpy(channel.in, bytes, length);
    channel.in_length = length;
    for (struct frame f; channel_next(&channel, &f) == FRAME_WHOLE; frames++)
        CHECK(f.payload >= channel.in && f.payload + f.length <= channel.in + length);
    CHECK(frames <= length / HEADER_BYTES && channel.in_at <= length);
}

int main(void)
{
    const char *rounds_text = getenv("FUZZ_ROUNDS"), *seed_text = getenv("FUZZ_SEED");
    long rounds = rounds_text != NULL ? atol(rounds_text) : DEFAULT_ROUNDS;
    size_t whole = 0;

    random_state = seed_text != NULL ? strtoull(seed_text, NULL, 10) | 1 : 20261123;
    for (long i = 0; i < rounds; i++) {
        uint8_t bytes[MAX_FUZZ_BYTES];
        size_t length;

        if (i % 2 == 0) {
            length = random_number(200);
            for (size_t at = 0; at < length; at++)
                bytes[at] = (uint8_t)random_number(random_number(4) == 0 ? 256 : 4);
        } else {
            length = valid_spawn(bytes);
            CHECK(decode_all(bytes, length));
            for (uint32_t damage = random_number(3); damage > 0; damage--)
                bytes[random_number((uint32_t)length)] = (uint8_t)random_number(256);
            length -= random_number(4) == 0 ? random_number((uint32_t)length) : 0;
        }
        whole += decode_all(bytes, length);
        fuzz_channel(bytes, length);
    }
    CHECK(whole > 0); /* the search reaches what it is meant to reach */
    return 0;
}
