#include "home.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

#define PREFIX "HOME="

enum {
    PASSWD_MAX_BYTES = 1 << 20, /* what is beyond is not looked at: some 15,000 users */
    UID_FIELD = 2,
    HOME_FIELD = 5,
    FIELDS = 7,
};

/* Cuts a line at its colons. Returns false if there are fewer fields than an entry has. */
static bool cut(char *line, char *fields[FIELDS])
{
    for (size_t i = 0; i < FIELDS; i++) {
        fields[i] = strsep(&line, ":");
        if (fields[i] == NULL)
            return false;
    }
    return true;
}

static bool is_uid(const char *text, uid_t uid)
{
    char *end;
    unsigned long value;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    value = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0' && value == uid;
}

/* Never waits: a pipe without a writer opens too. */
static ssize_t read_passwd(char *text, size_t size)
{
    cleanup_close int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat found;
    size_t length = 0;

    if (fd < 0 || fstat(fd, &found) < 0 || !S_ISREG(found.st_mode))
        return -1;
    while (length < size) {
        ssize_t got = read(fd, text + length, size - length);

        if (got < 0)
            return -1;
        if (got == 0)
            break;
        length += (size_t)got;
    }
    return (ssize_t)length;
}

char *home_variable(uid_t uid)
{
    static char passwd[PASSWD_MAX_BYTES + 1], variable[sizeof(PREFIX) + PATH_MAX] = PREFIX "/";
    ssize_t length = read_passwd(passwd, PASSWD_MAX_BYTES);
    char *rest = passwd, *line, *fields[FIELDS];

    if (length < 0)
        return variable;
    passwd[length] = '\0'; /* as does a zero byte in it, this ends the text */
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (!cut(line, fields) || !is_uid(fields[UID_FIELD], uid))
            continue;
        if (fields[HOME_FIELD][0] != '\0' && strlen(fields[HOME_FIELD]) < PATH_MAX)
            (void)snprintf(variable, sizeof(variable), PREFIX "%s", fields[HOME_FIELD]);
        break;
    }
    return variable;
}
