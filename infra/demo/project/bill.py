"""Splits a bill. Has a bug, which the demo mends in three ways."""


def split(total_cents: int, people: int) -> list[int]:
    """Return what each one pays: the shares add up, and differ by one cent at most."""
    return [total_cents // people] * people
