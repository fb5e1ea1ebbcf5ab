/* What went wrong, on the caller's stack, so that PID 1 reports without a heap.
 *
 * Convention: a fallible function takes `struct error *err` last, returns 0 (or a descriptor) or
 * -1, and leaves err untouched on success. */
#ifndef CONTREE_ERROR_H
#define CONTREE_ERROR_H

#include "wire.h"

struct error {
    enum error_code code;
    int errno_value; /* 0 if no system call failed */
    char message[MAX_MESSAGE_BYTES];
};

/* Fills err and returns -1. */
int error_set(struct error *err, enum error_code code, int errno_value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* cleanup_close: the descriptor is closed when the variable goes out of scope; -1 is ignored. */
void close_descriptor(int *fd);
#define cleanup_close __attribute__((cleanup(close_descriptor)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
