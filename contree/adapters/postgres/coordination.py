"""Leases, sealed secrets, inboxes, data keys: what changes beside the log together with it.

Written in the transaction of the event, like a read model, but never rebuilt: a lease is a present
fact, and a secret or a key is gone for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from contree.app.projection import Change
from contree.domain.aggregate import Event
from contree.domain.operation import (
    OperationAssigned,
    OperationCancelled,
    OperationFailed,
    OperationRequeued,
    OperationSucceeded,
)
from contree.domain.project import ProjectErased

# Leases are judged by the database's clock alone: of the event's only the distance counts.
GRANT = (
    "INSERT INTO public.leases (operation_id, worker, until) "
    "VALUES ($1, $2, now() + ($3::timestamptz - $4::timestamptz)) "
    "ON CONFLICT (operation_id) DO UPDATE SET worker = EXCLUDED.worker, until = EXCLUDED.until"
)
RELEASE = "DELETE FROM public.leases WHERE operation_id = $1"
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
    """Return what `event` changes in leases, sealed secrets, guests' inboxes and data keys."""
    operation_id = event.originator_id
    lease = ("leases", operation_id)
    match event:
        case OperationAssigned():
            granted = (operation_id, event.worker, event.lease_until, event.timestamp)
            return (Change(statement=GRANT, arguments=granted, row=lease),)
        case OperationRequeued():
            return (Change(statement=RELEASE, arguments=(operation_id,), row=lease), *_shut(event))
        case OperationSucceeded() | OperationFailed() | OperationCancelled():
            secret = ("sealed_secrets", operation_id)
            return (
                Change(statement=RELEASE, arguments=(operation_id,), row=lease),
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
