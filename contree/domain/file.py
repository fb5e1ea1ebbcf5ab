"""The File aggregate: uploaded content of a project, named by its SHA-256."""

from __future__ import annotations

from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, Event, register
from contree.domain.context import Context


def file_id_of(project_id: UUID, sha256: str) -> UUID:
    """The id of the content in the project: equal content, equal id. `sha256` is lower-case hex."""
    return uuid5(project_id, f"file:{sha256}")


class FileUploaded(Created):
    """Recorded when content first arrives. The bytes are in the content store."""

    TOPIC = "contree.file.uploaded"
    sha256: str
    size_bytes: int


class FileUploadedAgain(Event):
    """Recorded when the same content arrives again; it refreshes `updated_at`."""

    TOPIC = "contree.file.uploaded_again"


class File(Aggregate):
    """Content that runs may be given."""

    TOPIC = "contree.file"
    OVERWRITES = True

    def __init__(self, sha256: str, size_bytes: int) -> None:
        self.sha256 = sha256
        self.size_bytes = size_bytes

    @classmethod
    def upload(cls, context: Context, *, sha256: str, size_bytes: int) -> File:
        file_id = file_id_of(context.project_id, sha256)
        return cls._begin(FileUploaded, context, file_id, sha256=sha256, size_bytes=size_bytes)

    def upload_again(self, context: Context) -> None:
        self._record(FileUploadedAgain, context)


register(File, FileUploaded, FileUploadedAgain)
