/* /etc/hosts, /etc/hostname and /etc/resolv.conf for images that bring none: docs/guest.md. */
#ifndef CONTREE_ETC_FILES_H
#define CONTREE_ETC_FILES_H

#include <stdbool.h>

#include "error.h"

/* Fills the empty `etc` of `directory`, to be stacked on the image, with those of the files that the
 * image below `root` has not, or empty ones. `any` tells whether there are some: if not, the
 * directory is not to be used. Everything else of the image's /etc shows through, its attributes too. */
int etc_files_make(const char *root, const char *directory, bool *any, struct error *err);

#endif
