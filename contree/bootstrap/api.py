"""The use cases behind the HTTP API and the command line."""

from __future__ import annotations

from contree.app.access import Access
from contree.app.cancel_operation import CancelOperation
from contree.app.content.upload_file import UploadFile
from contree.app.guest.steer_instance import SteerInstance
from contree.app.images.blame import Blame
from contree.app.images.compare_images import CompareImages
from contree.app.images.image_log import ImageHistory, ShowLog
from contree.app.images.request_import import RequestImport
from contree.app.images.tag_images import TagImages
from contree.app.issue_tokens import IssueTokens
from contree.app.pending_bound import PendingBound
from contree.app.replay.compare_replay import CompareReplay
from contree.app.replay.replay_chain import ReplayChain
from contree.app.replay.request_replay import RequestReplay
from contree.app.request_run import RequestRun
from contree.app.services import Services
from contree.bootstrap.deployment import Core


def services(core: Core) -> Services:
    """The use cases behind the HTTP API."""
    limits = core.settings.limits
    return Services(
        access=Access(tokens=core.tokens, clock=core.clock),
        images=core.images,
        operations=core.operations,
        files=core.files,
        runs=RequestRun(
            log=core.log,
            images=core.images,
            files=core.files,
            content=core.content,
            environment=core.environment,
            sealer=core.sealer,
            pending=_pending_bound(core),
            clock=core.clock,
            ids=core.ids,
            limits=limits,
        ),
        imports=RequestImport(
            log=core.log,
            source=core.source,
            sealer=core.sealer,
            pending=_pending_bound(core),
            clock=core.clock,
            ids=core.ids,
            limits=limits,
        ),
        cancellation=CancelOperation(log=core.log, clock=core.clock),
        tags=TagImages(log=core.log, images=core.images, clock=core.clock),
        uploads=UploadFile(
            log=core.log, files=core.files, content=core.content, clock=core.clock, limits=limits
        ),
        content=core.content,
        environment=core.environment,
        image_files=core.image_files,
        image_search=core.image_search,
        diffs=compare_images(core),
        image_log=show_log(core),
        blame=blame(core),
        journal=core.journal,
        news=core.news,
        steering=SteerInstance(
            control=core.control,
            operations=core.operations,
            content=core.content,
            environment=core.environment,
            sealer=core.sealer,
        ),
        replays=request_replay(core),
        comparison=compare_replay(core),
        audit=core.history.ask,
        limits=limits,
        clock=core.clock,
        ready=core.database.check,
    )


def request_replay(core: Core) -> RequestReplay:
    """What turns a run that has ended into a pending one."""
    return RequestReplay(
        log=core.log,
        images=core.images,
        files=core.files,
        content=core.content,
        environment=core.environment,
        sealer=core.sealer,
        pending=_pending_bound(core),
        clock=core.clock,
        ids=core.ids,
    )


def _pending_bound(core: Core) -> PendingBound:
    return PendingBound(operations=core.operations, limits=core.settings.limits)


def compare_replay(core: Core) -> CompareReplay:
    """What compares a replay with its original."""
    return CompareReplay(
        log=core.log,
        images=core.images,
        operations=core.operations,
        content=core.content,
        layers=core.comparer,
        files=core.image_files,
    )


def compare_images(core: Core) -> CompareImages:
    """What tells two images apart."""
    return CompareImages(
        images=core.images,
        ancestry=core.ancestry,
        comparer=core.image_comparer,
        files=core.image_files,
    )


def image_history(core: Core) -> ImageHistory:
    """What walks down from an image to its import."""
    return ImageHistory(
        images=core.images,
        ancestry=core.ancestry,
        comparer=core.image_comparer,
        compare=compare_images(core),
    )


def show_log(core: Core) -> ShowLog:
    """What tells how an image came to be."""
    return ShowLog(
        history=image_history(core),
        images=core.images,
        operations=core.operations,
        ancestry=core.ancestry,
        compare=compare_images(core),
    )


def blame(core: Core) -> Blame:
    """What tells which run wrote a line."""
    return Blame(
        history=image_history(core),
        images=core.images,
        comparer=core.image_comparer,
        files=core.image_files,
    )


def replay_chain(core: Core) -> ReplayChain:
    """Replays for the command line: a worker of the running server does them."""
    return ReplayChain(
        requests=request_replay(core),
        comparison=compare_replay(core),
        images=core.images,
        operations=core.operations,
        news=core.news,
    )


def issue_tokens(core: Core) -> IssueTokens:
    """The operator's use case."""
    return IssueTokens(log=core.log, clock=core.clock, ids=core.ids)
