"""Everything the HTTP API needs, built by bootstrap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contree.app.access import Access
from contree.app.audit.ask_audit import AskAudit
from contree.app.cancel_operation import CancelOperation
from contree.app.clock import Clock
from contree.app.content.project_content import ProjectContent
from contree.app.content.project_environment import ProjectEnvironment
from contree.app.content.upload_file import UploadFile
from contree.app.guest.steer_instance import SteerInstance
from contree.app.images.blame import Blame
from contree.app.images.compare_images import CompareImages
from contree.app.images.image_log import ShowLog
from contree.app.images.image_search import ImageSearch
from contree.app.images.layer_store import ImageFiles
from contree.app.images.request_import import RequestImport
from contree.app.images.tag_images import TagImages
from contree.app.journal import Journal
from contree.app.limits import Limits
from contree.app.operation_news import OperationNews
from contree.app.reads import FileReads, ImageReads, OperationReads
from contree.app.replay.compare_replay import CompareReplay
from contree.app.replay.request_replay import RequestReplay
from contree.app.request_run import RequestRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases and reads behind the API. `ready` raises UnavailableError."""

    access: Access
    images: ImageReads
    operations: OperationReads
    files: FileReads
    runs: RequestRun
    imports: RequestImport
    cancellation: CancelOperation
    tags: TagImages
    uploads: UploadFile
    content: ProjectContent
    environment: ProjectEnvironment
    image_files: ImageFiles
    image_search: ImageSearch
    diffs: CompareImages
    image_log: ShowLog
    blame: Blame
    journal: Journal
    news: OperationNews
    steering: SteerInstance
    audit: AskAudit
    replays: RequestReplay
    comparison: CompareReplay
    limits: Limits
    clock: Clock
    ready: Callable[[], Awaitable[None]]
