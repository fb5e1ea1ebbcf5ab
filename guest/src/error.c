/* Errors as values, and the one cleanup attribute. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

int error_set(struct error *err, enum error_code code, int errno_value, const char *format, ...)
{
    va_list args;

    err->code = code;
    err->errno_value = errno_value;
    va_start(args, format);
    if (vsnprintf(err->message, sizeof(err->message), format, args) < 0)
        err->message[0] = '\0';
    va_end(args);
    return -1;
}

void close_descriptor(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* read-only or already reported: nothing is lost */
    *fd = -1;
}
