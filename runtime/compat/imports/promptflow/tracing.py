"""`promptflow.tracing`."""

from runtime.compat.missing import named_in
from runtime.compat.tracing import ThreadPoolExecutorWithContext, start_trace, trace

__all__ = ["ThreadPoolExecutorWithContext", "start_trace", "trace"]
__getattr__ = named_in(__name__)
