"""Who did it, for which project, in which request, when: carried by every event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The circumstances of one decision.

    actor       token id as text, `worker:<name>`, or `operator` for the command line
    project_id  the project whose history this belongs to
    request_id  ties together all events of one HTTP request, claim or command
    at          aware UTC time, from the Clock port
    """

    actor: str
    project_id: UUID
    request_id: str
    at: datetime
