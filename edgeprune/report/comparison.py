"""Several runs on one page."""

from collections.abc import Sequence

from edgeprune.records import Run


def render_several(runs: Sequence[tuple[str, Run]]) -> str:
    """Placeholder."""
    raise NotImplementedError
