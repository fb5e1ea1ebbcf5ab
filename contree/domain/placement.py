"""Where a request may put files and have its directory; what no guest could take is refused.

Only what is wrong whatever the image holds. What depends on the image (a directory that stands
where a file is to be) the guest says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

from contree.domain.errors import InvalidFieldError
from contree.domain.guest_path import parse_guest_path

T = TypeVar("T")

NAME_BYTES_MAX: Final = 255
"""NAME_MAX of Linux, limits.h."""

WHITEOUT_PREFIX: Final = ".wh."
"""Layers say with it what was deleted: OCI image-spec, layer.md."""

KERNEL_TREES: Final = ("/proc", "/sys")
"""Filesystems of the guest's kernel, in which nobody makes files."""

MOUNT_POINTS: Final = ("/", "/dev", *KERNEL_TREES)


def normalised(files: Mapping[str, T]) -> dict[str, T]:
    """Return `files` under plain paths, in order. Raises InvalidFieldError for a path twice."""
    plain: dict[str, T] = {}
    sent: dict[str, str] = {}
    for path, file in files.items():
        field = f"files['{path}']"
        place = parse_guest_path(path, field=field)
        if place in plain:
            raise InvalidFieldError(field, f"is the same path as '{sent[place]}'")
        plain[place], sent[place] = file, path
    return plain


def check_new_path(path: str, *, field: str, keeps_image: bool) -> None:
    """Raise InvalidFieldError when something at `path` could not be made, or not be kept."""
    for name in parse_guest_path(path, field=field).split("/"):
        if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
            raise InvalidFieldError(field, f"has a name longer than {NAME_BYTES_MAX} bytes")
        if keeps_image and name.startswith(WHITEOUT_PREFIX):
            raise InvalidFieldError(
                field,
                f"'{name}' begins with '{WHITEOUT_PREFIX}', which no image can hold: "
                "choose another name, or set disposable",
            )


def check_files(paths: Iterable[str], *, directories: Collection[str], keeps_image: bool) -> None:
    """Raise InvalidFieldError naming the first of the plain `paths` that no guest could take.

    `directories` are those of them at which an archive is unpacked.
    """
    files = set(paths) - set(directories)
    for path in paths:
        field = f"files['{path}']"
        check_new_path(path, field=field, keeps_image=keeps_image)
        if path in files and path in MOUNT_POINTS:
            raise InvalidFieldError(field, "is a directory in every guest, name a file")
        if path.startswith(tuple(f"{tree}/" for tree in KERNEL_TREES)) or path in KERNEL_TREES:
            raise InvalidFieldError(field, "belongs to the guest's kernel, choose another place")
        if above := next((a for a in _ancestors(path) if a in files), None):
            raise InvalidFieldError(field, f"lies below '{above}', which is a file of this request")


def _ancestors(path: str) -> Iterable[str]:
    while path := path.rpartition("/")[0]:
        yield path
