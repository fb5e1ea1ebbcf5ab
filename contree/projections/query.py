"""Puts the parts of a list query together, each value as a placeholder, never as text."""

from __future__ import annotations

from contree.app.reads import Page

NUL = "\0"
"""PostgreSQL's text has none, so a search for one finds nothing; the driver would refuse it."""


class Query:
    """One SELECT under construction."""

    def __init__(self, select: str, **conditions: object) -> None:
        """Start with `column = value` conditions; a None value is no condition."""
        self._select = select
        self._conditions: list[str] = []
        self.arguments: list[object] = []
        for column, value in conditions.items():
            if value is not None:
                self.where(f"{column} = {{}}", value)

    def where(self, condition: str, *values: object) -> None:
        """Add a condition with one `{}` for each value."""
        self._conditions.append(condition.format(*(self.bound(value) for value in values)))

    def bound(self, value: object) -> str:
        """Return the placeholder of a new argument."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def page(self, page: Page, *, created_at: str, order: str) -> str:
        """Return the statement for one page, ordered."""
        if page.since is not None:
            self.where(f"{created_at} >= {{}}", page.since)
        if page.until is not None:
            self.where(f"{created_at} <= {{}}", page.until)
        limit, offset = self.bound(page.limit), self.bound(page.offset)
        return f"{self.text()} ORDER BY {order} LIMIT {limit} OFFSET {offset}"

    def text(self) -> str:
        if not self._conditions:
            return self._select
        return f"{self._select} WHERE {' AND '.join(self._conditions)}"
