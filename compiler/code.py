"""What a diagnostic of a code says besides its place."""

from __future__ import annotations

import re

from .record import record


@record
class Code:
    """The title, with `{values}` that whoever reports fills in, and the long explanation as it stands in the source."""

    title: str
    prose: str

    @property
    def heading(self) -> str:
        """The title without a case at hand."""
        return re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), self.title)

    @property
    def explanation(self) -> str:
        """What is wrong, why it matters, and what to write: the text of `nnc explain`."""
        from textwrap import dedent

        return dedent(self.prose).strip()
