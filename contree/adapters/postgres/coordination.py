"""The queue, sealed secrets, inboxes, data keys: what changes beside the log together with it.

Written in the transaction of the event, like a read model, but not folded again: a lease is a
present fact, and a secret or a key is gone for good. A rebuild sets right what the log tells of the
queue (queue_check).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from contree.app.projection import Change
from contree.domain.aggregate import Event
from contree.domain.operation import (
    CancellationRequested,
    ImportRequested,
    InstanceRequested,
    Kind,
    OperationAssigned,
    OperationCancelled,
    OperationFailed,
    OperationRequeued,
    OperationSucceeded,
)
from contree.domain.project import ProjectErased

ENQUEUE = (
    "INSERT INTO public.queue (operation_id, project_id, kind, created_at) VALUES ($1, $2, $3, $4)"
)
# Leases are judged by the database's clock alone: of the event's only the distance counts.
ASSIGN = (
    "UPDATE public.queue SET worker = $2, until = now() + ($3::timestamptz - $4::timestamptz), "
    "taken_by = NULL, taken_until = NULL WHERE operation_id = $1"
)
REQUEUE = "UPDATE public.queue SET worker = NULL, until = NULL WHERE operation_id = $1"
WISH = "UPDATE public.queue SET unwanted = true WHERE operation_id = $1"
DEQUEUE = "DELETE FROM public.queue WHERE operation_id = $1"
SEAL = (
    "INSERT INTO public.sealed_secrets (operation_id, sealed) VALUES ($1, $2) "
    "ON CONFLICT (operation_id) DO UPDATE SET sealed = EXCLUDED.sealed"
)
DESTROY = "DELETE FROM public.sealed_secrets WHERE operation_id = $1"
DESTROY_KEY = (
    "INSERT INTO public.project_keys (project_id, erased_at) VALUES ($1, $2) "
    "ON CONFLICT (project_id) DO UPDATE SET wrapped = NULL, erased_at = EXCLUDED.erased_at"
)
SHUT = "DELETE FROM public.guest_inboxes WHERE operation_id = $1"
FORGET = "DELETE FROM public.guest_commands WHERE operation_id = $1"


def changes_of(event: Event) -> Sequence[Change]:
    """Return what `event` changes in the queue, sealed secrets, guests' inboxes and data keys."""
    operation_id = event.originator_id
    match event:
        case InstanceRequested():
            return (_enqueued(event, Kind.INSTANCE),)
        case ImportRequested():
            return (_enqueued(event, Kind.IMPORT),)
        case OperationAssigned():
            return (_queue(event, ASSIGN, event.worker, event.lease_until, event.timestamp),)
        case CancellationRequested():
            return (_queue(event, WISH),)
        case OperationRequeued():
            return (_queue(event, REQUEUE), *_shut(event))
        case OperationSucceeded() | OperationFailed() | OperationCancelled():
            secret = ("sealed_secrets", operation_id)
            return (
                _queue(event, DEQUEUE),
                Change(statement=DESTROY, arguments=(operation_id,), row=secret),
                *_shut(event),
            )
        case ProjectErased():
            project_id = event.originator_id
            destroyed = (project_id, event.timestamp)
            key = ("project_keys", project_id)
            return (Change(statement=DESTROY_KEY, arguments=destroyed, row=key),)
        case _:
            return ()


def _enqueued(event: InstanceRequested | ImportRequested, kind: Kind) -> Change:
    return _queue(event, ENQUEUE, event.project_id, kind.value, event.timestamp)


def _queue(event: Event, statement: str, *values: object) -> Change:
    id_ = event.originator_id
    return Change(statement=statement, arguments=(id_, *values), row=("queue", id_))


def _shut(event: Event) -> Sequence[Change]:
    """Nobody takes commands for the operation any more."""
    operation_id = event.originator_id
    return (
        Change(statement=SHUT, arguments=(operation_id,), row=("guest_inboxes", operation_id)),
        Change(statement=FORGET, arguments=(operation_id,), row=("guest_commands", operation_id)),
    )


def seal_changes(seal: Mapping[UUID, bytes]) -> Sequence[Change]:
    """Return the changes that store sealed secrets beside their operations."""
    return [
        Change(statement=SEAL, arguments=(id_, sealed), row=("sealed_secrets", id_))
        for id_, sealed in seal.items()
    ]
