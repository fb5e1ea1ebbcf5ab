"""`make demo`: the whole story on real parts, in throw-away directories.

Starts a registry and `contreed serve` on free loopback ports, tells the story, and stops and
removes everything, also after Ctrl-C or a failure. Needs what `make setup-dev` installs.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from types import FrameType

from infra.demo.server import ServerNotReadyError, running_server
from infra.demo.story import Story, StoryError
from infra.demo.tree import size_text
from infra.images.debian import RootfsNotBuiltError
from infra.images.registry import RegistryNotInstalledError, running_registry
from infra.images.rootfs import BuiltImage, python_image

FAILED, INTERRUPTED = 1, 130


def say(line: str) -> None:
    """Print at once: the demo is watched."""
    print(line, flush=True)


def main() -> int:
    # `kill` must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        image = python_image(progress=_detail)
        tell(image, started)
    except KeyboardInterrupt:
        say("\ninterrupted; everything is stopped and removed")
        return INTERRUPTED
    except (
        ServerNotReadyError,
        StoryError,
        RootfsNotBuiltError,
        RegistryNotInstalledError,
    ) as error:
        say(f"\nthe demo failed: {error}")
        return FAILED
    say(f"\nDone in {time.monotonic() - started:.1f} s; everything is stopped and removed.")
    return 0


def tell(image: BuiltImage, started: float) -> None:
    """Start what the story needs, tell it, stop everything."""
    say(
        f"Root filesystem: Debian with Python, {size_text(image.size_bytes)},"
        f" {image.entry_count} files in {image.layer_count} layers"
    )
    with running_registry() as registry:
        say(f"Registry on {registry.host}")
        url = registry.push(image.layout, image.tag, image.repository, image.tag)
        with running_server(_detail) as server:
            say(f"Contree on {server.url}, ready after {time.monotonic() - started:.1f} s")
            story = Story(
                base_url=server.url,
                token=server.create_token("demo"),
                image_url=url,
                say=say,
            )
            try:
                asyncio.run(story.tell())
                say("\n8. Replay the log, and compare what the API answers from with it")
                _detail(server.check_projections())
            except Exception:
                say("\nThe end of the server's log:")
                say(server.log.read_text(errors="replace")[-4000:])
                raise


def _detail(line: str) -> None:
    say(f"   {line}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
