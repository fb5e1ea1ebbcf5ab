"""Splits a bill, each share rounded to the nearest cent."""


def split(total_cents: int, people: int) -> list[int]:
    """Return what each one pays: the shares add up, and differ by one cent at most."""
    return [round(total_cents / people)] * people
