"""Replay what led from one checkpoint to another, step by step, each on what the last one left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

from contree.app.access import Requester
from contree.app.operation_news import OperationNews
from contree.app.reads import ImageReads, OperationReads
from contree.app.replay.compare_replay import CompareReplay
from contree.app.replay.request_replay import RequestReplay
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.replay_report import ReplayReport

LOOK_AGAIN_S = 2.0


class ReplayChain:
    """Requests replays and waits for them."""

    def __init__(
        self,
        *,
        requests: RequestReplay,
        comparison: CompareReplay,
        images: ImageReads,
        operations: OperationReads,
        news: OperationNews,
    ) -> None:
        self._requests = requests
        self._comparison = comparison
        self._images = images
        self._operations = operations
        self._news = news

    async def one(
        self,
        requester: Requester,
        original_id: UUID,
        *,
        secrets: Mapping[str, str] | None = None,
        image_id: UUID | None = None,
    ) -> ReplayReport:
        """Replay one run and return the comparison once it has ended. Raises as `request`."""
        replay_id = await self._requests.request(
            requester, original_id, secrets=secrets, image_id=image_id
        )
        await self._ended(requester.project_id, replay_id)
        return await self._comparison.compare(requester.project_id, replay_id)

    async def steps(self, project_id: UUID, *, from_image: UUID, to_image: UUID) -> Sequence[UUID]:
        """Return the operations that led from one image to the other, in order.

        Raises NotFoundError, and InvalidFieldError when `to_image` does not descend from it.
        """
        steps: list[UUID] = []
        image_id: UUID | None = to_image
        while image_id != from_image:
            row = None if image_id is None else await self._images.get(project_id, image_id)
            if row is None:
                raise NotFoundError("image", to_image if image_id is None else image_id)
            if row.parent_image_id is None or row.operation_id is None:
                raise InvalidFieldError("from", f"image {to_image} does not descend from it")
            steps.append(row.operation_id)
            image_id = row.parent_image_id
        if await self._images.get(project_id, from_image) is None:
            raise NotFoundError("image", from_image)
        return steps[::-1]

    async def chain(
        self, requester: Requester, *, from_image: UUID, to_image: UUID
    ) -> AsyncIterator[ReplayReport]:
        """Replay the steps in order and yield each comparison; ends early where a step failed.

        Each step runs on the image that the replay before it left, so a difference is carried on
        as it would have been. Raises as `steps` and `request`.
        """
        steps = await self.steps(requester.project_id, from_image=from_image, to_image=to_image)
        image_id: UUID | None = from_image
        for original_id in steps:
            if image_id is None:
                return
            report = await self.one(requester, original_id, image_id=image_id)
            yield report
            row = await self._operations.get(requester.project_id, report.replay_id)
            image_id = None if row is None else row.result_image_id

    async def _ended(self, project_id: UUID, operation_id: UUID) -> None:
        changed = asyncio.Event()
        unsubscribe = self._news.subscribe(operation_id, changed.set)
        try:
            while True:
                changed.clear()
                row = await self._operations.get(project_id, operation_id)
                if row is None or row.status.is_terminal:
                    return
                try:
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
