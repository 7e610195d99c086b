"""promptflow's base class of tools, and its metrics."""

import logging

logger = logging.getLogger(__name__)


class ToolProvider:
    """The base of a class whose methods marked @tool are tools.

    A node's inputs are those of the constructor, which must be literals, and those of the method.
    """

    def __init__(self) -> None:
        """Do nothing; subclasses call it."""


def log_metric(key: str, value: float, variant_id: str | None = None) -> None:
    """Write a metric to the log: promptflow collects metrics of batch runs, and a service has none."""
    logger.info("metric %s = %s%s", key, value, f" ({variant_id})" if variant_id else "")
