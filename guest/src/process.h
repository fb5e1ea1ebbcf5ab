/* The live processes: a fixed table, their pipes, deadlines and ends.
 *
 *     FREE --spawn--> STARTING --exec seen--> RUNNING --reaped, output at its end--> FREE (EXITED)
 *                     STARTING --exec failed, reaped--> FREE (SPAWN_FAILED)
 */
#ifndef CONTREE_PROCESS_H
#define CONTREE_PROCESS_H

#include <poll.h>

#include "spawn.h"

enum { POLL_SLOTS_PER_PROCESS = 4 };

/* Room the queue must have before one step of one process may send. */
enum { STEP_ROOM_BYTES = HEADER_BYTES + 5 + MAX_OUTPUT_CHUNK_BYTES + 4096 };

void processes_init(void);
/* Answers with SPAWN_FAILED, or with SPAWNED once exec has succeeded (from processes_step). */
void processes_spawn(const struct spawn *request, const struct workload *where, struct queue *out);
int processes_stdin(uint32_t spid, struct span data, struct error *err);
int processes_stdin_eof(uint32_t spid, struct error *err);
int processes_signal(uint32_t spid, uint32_t number, struct error *err);

/* Collects every child that has ended, ours or adopted. Returns false when no child is left. */
bool processes_reap(void);
/* Kills everything but the agent itself, or, where it is not PID 1, the groups it started. */
void processes_kill_all(void);
bool processes_any(void);

/* Adds what is worth waiting for; returns how many entries (at most POLL_SLOTS_PER_PROCESS each).
 * */
size_t processes_poll_set(struct pollfd *set, bool queue_has_room);
/* Milliseconds until the next deadline, -1 if none. */
int processes_poll_timeout(void);
/* Moves bytes, enforces deadlines, reports ends: whatever can be done without waiting. */
void processes_step(struct queue *out);

#endif
