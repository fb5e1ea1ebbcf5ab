/* What makes a guest itself and not its template: randomness, time, names. */
#ifndef CONTREE_IDENTITY_H
#define CONTREE_IDENTITY_H

#include "messages.h"

#define BOOT_ID_FILE "/boot_id"

int identity_take(const struct configure *request, struct error *err);

#endif
