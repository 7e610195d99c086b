"""promptflow's base class for tools, and its metrics."""

import logging

logger = logging.getLogger(__name__)


class ToolProvider:
    """The base of a class whose methods marked @tool are tools.

    A node's inputs are the parameters of the constructor, as literals, and those of the method.
    """

    def __init__(self) -> None:
        """Do nothing; subclasses call this."""


def log_metric(key: str, value: float, variant_id: str | None = None) -> None:
    """Log a metric; promptflow collects metrics of batch runs, which a service does not have."""
    logger.info("metric %s = %s%s", key, value, f" ({variant_id})" if variant_id else "")
