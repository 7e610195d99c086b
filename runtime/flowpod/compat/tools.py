"""promptflow's base class for tools, and its metrics."""

import logging

logger = logging.getLogger(__name__)


class ToolProvider:
    """The base of a class with @tool methods. The node's inputs go to the constructor, as literals, and the method."""

    def __init__(self) -> None:
        """Do nothing; subclasses call this."""


def log_metric(key: str, value: float, variant_id: str | None = None) -> None:
    """Log a metric; promptflow collects metrics of batch runs, which a service does not have."""
    logger.info("metric %s = %s%s", key, value, f" ({variant_id})" if variant_id else "")
