"""The Project aggregate: the namespace that images, tags, files and operations belong to."""

from __future__ import annotations

import re
from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, register
from contree.domain.context import Context
from contree.domain.errors import InvalidFieldError

NAMESPACE = UUID("6f1c1c9e-7d0a-5c53-9b52-3c7c1d2d6a10")
"""Root of all derived ids (RFC 9562 version 5)."""

PROJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def project_id_of(name: str) -> UUID:
    """The id of the project called `name`; the same name gives the same id everywhere."""
    return uuid5(NAMESPACE, f"project:{name}")


class ProjectCreated(Created):
    """Recorded by the command line when a token is first made for a new project name."""

    TOPIC = "contree.project.created"
    name: str


class Project(Aggregate):
    """A namespace and what its tokens may reach."""

    TOPIC = "contree.project"

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def create(cls, context: Context, *, name: str) -> Project:
        """Raise InvalidFieldError unless `name` is 1..128 of letters, digits, `_`, `.`, `-`."""
        if not PROJECT_NAME.fullmatch(name):
            raise InvalidFieldError(
                "project",
                "use 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit",
            )
        return cls._begin(ProjectCreated, context, project_id_of(name), name=name)


register(Project, ProjectCreated)
