"""A blocking generator, stepped in threads, as an asynchronous one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Executor
from typing import TypeVar

Item = TypeVar("Item")
Step = TypeVar("Step")


async def stepped(
    threads: Executor,
    make: Callable[[], Generator[Item, None, None]],
    step: Callable[[Iterator[Item]], Step | None],
) -> AsyncGenerator[Step, None]:
    """Yield what `step` takes from the generator, until it takes None. Whoever stops early closes
    this, and with it the generator.
    """
    generator = make()
    taken: asyncio.Future[Step | None] | None = None
    loop = asyncio.get_running_loop()
    try:
        while True:
            taken = loop.run_in_executor(threads, step, generator)
            found = await asyncio.shield(taken)
            if found is None:
                return
            yield found
    finally:
        # A generator that is being run cannot be closed: a cancelled step is waited for.
        if taken is not None and not taken.done():
            await asyncio.wait([taken])
        await asyncio.shield(loop.run_in_executor(threads, generator.close))
