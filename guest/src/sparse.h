/* Files with holes, as GNU tar's sparse format 1.0. docs/guest-protocol.md section 6. */
#ifndef CONTREE_SPARSE_H
#define CONTREE_SPARSE_H

#include "tar.h"

/* Writes one member, header included; sets m->size. The file must not change meanwhile. */
int sparse_write(struct tar *t, int fd, struct tar_member *m, struct error *err);

#endif
