/* POSIX pax interchange format, IEEE Std 1003.1 (pax), and the ustar header it extends. */
#include "tar.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    PORT_RETRY_MS = 1,      /* a virtio port does not wake a writer when it drains */
    SENDFILE_BYTES = 65536, /* from here on passing pages beats copying bytes */
    NAME_BYTES = 100,
    MAX_OCTAL7 = 07777777,
};
static const uint64_t MAX_OCTAL11 = 077777777777;

struct ustar {
    char name[NAME_BYTES], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type;
    char link[NAME_BYTES], magic[8], owner[32], group[32], major_number[8], minor_number[8];
    char prefix[155], unused[12];
};
_Static_assert(sizeof(struct ustar) == BLOCK_BYTES, "a ustar header is one block");

void tar_init(struct tar *t, int fd, uint64_t limit)
{
    t->fd = fd;
    t->total = 0;
    t->limit = limit;
    t->used = 0;
    t->pax_used = 0;
}

/* Waits for the port after EAGAIN; other failures are the caller's error. */
static bool port_wait(const struct tar *t)
{
    struct pollfd p = {.fd = t->fd, .events = POLLOUT};

    if (errno == EAGAIN)
        (void)poll(&p, 1, PORT_RETRY_MS);
    return errno == EAGAIN || errno == EINTR;
}

static int flush(struct tar *t, struct error *err)
{
    for (size_t at = 0; at < t->used;) {
        ssize_t sent = write(t->fd, t->buffer + at, t->used - at);

        if (sent > 0)
            at += (size_t)sent;
        else if (sent == 0)
            sleep(0);
        else if (!port_wait(t))
            return error_set(err, ERROR_IO, errno, "write to the data port: %s", strerror(errno));
    }
    t->used = 0;
    return 0;
}

static int charge(struct tar *t, uint64_t length, struct error *err)
{
    if (length > t->limit - t->total)
        return error_set(err, ERROR_LIMIT, EFBIG, "the changes exceed %llu bytes",
                         (unsigned long long)t->limit);
    t->total += length;
    return 0;
}

int tar_bytes(struct tar *t, const void *data, size_t length, struct error *err)
{
    const uint8_t *bytes = data;

    if (charge(t, length, err) < 0)
        return -1;
    while (length > 0) {
        size_t part = sizeof(t->buffer) - t->used;

        if (part > length)
            part = length;
        memcpy(t->buffer + t->used, bytes, part);
        t->used += part;
        bytes += part;
        length -= part;
        if (t->used == sizeof(t->buffer) && flush(t, err) < 0)
            return -1;
    }
    return 0;
}

static int copy_through_buffer(struct tar *t, int fd, uint64_t offset, uint64_t length,
                               struct error *err)
{
    while (length > 0) {
        size_t part = sizeof(t->buffer) - t->used;
        ssize_t got;

        if (part > length)
            part = (size_t)length;
        got = pread(fd, t->buffer + t->used, part, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return error_set(err, ERROR_IO, got < 0 ? errno : 0, "read a changed file");
        t->used += (size_t)got;
        offset += (uint64_t)got;
        length -= (uint64_t)got;
        if (t->used == sizeof(t->buffer) && flush(t, err) < 0)
            return -1;
    }
    return 0;
}

int tar_copy(struct tar *t, int fd, uint64_t offset, uint64_t length, struct error *err)
{
    off_t at = (off_t)offset;

    if (charge(t, length, err) < 0)
        return -1;
    if (length >= SENDFILE_BYTES && flush(t, err) < 0)
        return -1;
    while (length >= SENDFILE_BYTES) {
        ssize_t sent = sendfile(t->fd, fd, &at, length > INT32_MAX ? INT32_MAX : (size_t)length);

        if (sent > 0)
            length -= (uint64_t)sent;
        else if (sent == 0 || errno == EINVAL)
            break; /* ended early, or no splicing here: the plain copy finds out */
        else if (!port_wait(t))
            return error_set(err, ERROR_IO, errno, "send a changed file: %s", strerror(errno));
    }
    return copy_through_buffer(t, fd, (uint64_t)at, length, err);
}

int tar_pad(struct tar *t, uint64_t size, struct error *err)
{
    static const uint8_t ZEROS[BLOCK_BYTES];

    return tar_bytes(t, ZEROS, (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES, err);
}

int tar_finish(struct tar *t, struct error *err)
{
    static const uint8_t ZEROS[2 * BLOCK_BYTES];

    return tar_bytes(t, ZEROS, sizeof(ZEROS), err) < 0 ? -1 : flush(t, err);
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
int tar_record(struct tar *t, const char *key, const void *value, size_t length, struct error *err)
{
    size_t rest = 1 + strlen(key) + 1 + length + 1, total = rest + 1;
    char digits[24];

    while (rest + (size_t)snprintf(digits, sizeof(digits), "%zu", total) != total)
        total = rest + strlen(digits);
    if (total > sizeof(t->pax) - t->pax_used)
        return error_set(err, ERROR_LIMIT, 0, "attributes of one file exceed %d bytes", PAX_BYTES);
    t->pax_used += (size_t)sprintf(t->pax + t->pax_used, "%s %s=", digits, key);
    memcpy(t->pax + t->pax_used, value, length);
    t->pax_used += length;
    t->pax[t->pax_used++] = '\n';
    return 0;
}

static int record_number(struct tar *t, const char *key, int64_t value, struct error *err)
{
    char text[24];
    int length = snprintf(text, sizeof(text), "%lld", (long long)value);

    return tar_record(t, key, text, (size_t)length, err);
}

static bool is_ascii(const char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    while (*s != 0) {
        size_t tail = *s < 0x80 ? 0 : *s >= 0xc2 && *s <= 0xdf ? 1 : (*s & 0xf0) == 0xe0 ? 2 : 3;

        if (*s >= 0x80 && (*s < 0xc2 || *s > 0xf4))
            return false;
        if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) ||
            (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
            return false;
        for (s++; tail > 0; tail--, s++)
            if ((*s & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static bool fits_header(const char *text)
{
    return strlen(text) <= NAME_BYTES && is_ascii(text);
}

static int record_names(struct tar *t, const struct tar_member *m, struct error *err)
{
    if ((!is_utf8(m->path) || (m->link != NULL && !is_utf8(m->link))) &&
        tar_record(t, "hdrcharset", "BINARY", 6, err) < 0)
        return -1;
    if (!fits_header(m->path) && tar_record(t, "path", m->path, strlen(m->path), err) < 0)
        return -1;
    if (m->link != NULL && !fits_header(m->link))
        return tar_record(t, "linkpath", m->link, strlen(m->link), err);
    return 0;
}

/* Each number that its field cannot hold goes into a record and becomes 0 in the header. */
static int fit(struct tar *t, const char *key, int64_t value, uint64_t max, uint64_t *out,
               struct error *err)
{
    bool fits = value >= 0 && (uint64_t)value <= max;

    *out = fits ? (uint64_t)value : 0;
    return fits ? 0 : record_number(t, key, value, err);
}

/* Zero-padded octal with a final NUL, as ustar has it. */
static void octal(char *field, size_t size, uint64_t value)
{
    field[size - 1] = '\0';
    for (size_t i = size - 1; i-- > 0; value >>= 3)
        field[i] = (char)('0' + (value & 7));
}

static void copy_name(char *field, const char *text)
{
    memcpy(field, text, strnlen(text, NAME_BYTES));
}

static int write_header(struct tar *t, struct ustar *h, char type, uint64_t size, struct error *err)
{
    const unsigned char *bytes = (const unsigned char *)h;
    unsigned sum = 0;

    h->type = type;
    octal(h->size, sizeof(h->size), size);
    memcpy(h->magic, "ustar\0" "00", 8);
    memset(h->checksum, ' ', sizeof(h->checksum));
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        sum += bytes[i];
    octal(h->checksum, 7, sum);
    return tar_bytes(t, h, sizeof(*h), err);
}

static int write_records(struct tar *t, struct error *err)
{
    struct ustar h = {.name = "././@PaxHeader"};
    size_t length = t->pax_used;

    if (length == 0)
        return 0;
    t->pax_used = 0;
    octal(h.mode, sizeof(h.mode), 0);
    octal(h.uid, sizeof(h.uid), 0);
    octal(h.gid, sizeof(h.gid), 0);
    octal(h.mtime, sizeof(h.mtime), 0);
    if (write_header(t, &h, 'x', length, err) < 0 || tar_bytes(t, t->pax, length, err) < 0)
        return -1;
    return tar_pad(t, length, err);
}

int tar_header(struct tar *t, const struct tar_member *m, struct error *err)
{
    struct ustar h = {0};
    uint64_t uid, gid, size, mtime;

    if (record_names(t, m, err) < 0 ||
        fit(t, "uid", m->st->st_uid, MAX_OCTAL7, &uid, err) < 0 ||
        fit(t, "gid", m->st->st_gid, MAX_OCTAL7, &gid, err) < 0 ||
        fit(t, "size", (int64_t)m->size, MAX_OCTAL11, &size, err) < 0 ||
        fit(t, "mtime", m->st->st_mtim.tv_sec, MAX_OCTAL11, &mtime, err) < 0 ||
        write_records(t, err) < 0)
        return -1;
    copy_name(h.name, m->path);
    if (m->link != NULL)
        copy_name(h.link, m->link);
    octal(h.mode, sizeof(h.mode), m->st->st_mode & 07777);
    octal(h.uid, sizeof(h.uid), uid);
    octal(h.gid, sizeof(h.gid), gid);
    octal(h.mtime, sizeof(h.mtime), mtime);
    if (m->type == '3' || m->type == '4') {
        octal(h.major_number, sizeof(h.major_number), major(m->st->st_rdev));
        octal(h.minor_number, sizeof(h.minor_number), minor(m->st->st_rdev));
    }
    return write_header(t, &h, m->type, size, err);
}
