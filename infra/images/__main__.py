"""Builds the root filesystems of demo and tests ahead of time: `python -m infra.images`."""

from __future__ import annotations

import sys

from infra.images.debian import RootfsNotBuiltError
from infra.images.rootfs import python_image, small_image


def main() -> None:
    try:
        images = (small_image(), python_image(progress=print))
    except RootfsNotBuiltError as error:
        sys.exit(str(error))
    for image in images:
        print(
            f"{image.repository}:{image.tag}  {image.layer_count} layers,"
            f" {image.entry_count} entries, {image.size_bytes / 2**20:.0f} MiB in {image.layout}"
        )


if __name__ == "__main__":
    main()
