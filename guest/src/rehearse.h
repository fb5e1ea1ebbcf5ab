/* The whole of a run, done once for nothing, so that an emulator has met its code: REHEARSE in
 * docs/guest-protocol.md. What it did is gone afterwards. */
#ifndef CONTREE_REHEARSE_H
#define CONTREE_REHEARSE_H

#include "messages.h"

/* Blocks for as long as it takes. The guest must be prepared; its layer 0 must have
 * REHEARSED_PROGRAM, which is to write REHEARSED_FILE. */
int rehearse(const struct configure *request, struct error *err);

/* What that program does: run with REHEARSED_ARGUMENT, the agent's own binary is one. */
#define REHEARSED_PROGRAM "/agent"
#define REHEARSED_ARGUMENT "--rehearsed"
#define REHEARSED_FILE "/rehearsed"
int rehearsed_program(void);

#endif
