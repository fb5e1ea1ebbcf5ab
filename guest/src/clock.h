/* Monotonic time in the units the protocol uses. Cannot fail: CLOCK_MONOTONIC always exists. */
#ifndef CONTREE_CLOCK_H
#define CONTREE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t monotonic_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static inline void sleep_ms(long ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    (void)nanosleep(&pause, NULL); /* a shorter sleep only means an earlier retry */
}

#endif
