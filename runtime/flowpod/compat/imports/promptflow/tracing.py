"""`promptflow.tracing`."""

from flowpod.compat.missing import named_in
from flowpod.compat.tracing import ThreadPoolExecutorWithContext, start_trace, trace

__all__ = ["ThreadPoolExecutorWithContext", "start_trace", "trace"]
__getattr__ = named_in(__name__)
