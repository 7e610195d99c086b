"""`promptflow.tracing`."""

from flowpod.compat.missing import refuse_others
from flowpod.compat.tracing import ThreadPoolExecutorWithContext, start_trace, trace

__all__ = ["ThreadPoolExecutorWithContext", "start_trace", "trace"]
__getattr__ = refuse_others(__name__)
