"""The global meter provider, for the instruments that Python nodes create over OpenTelemetry's API."""

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import Attributes

from flowpod.telemetry.families import Family
from flowpod.telemetry.instruments import Instruments

if TYPE_CHECKING:
    from flowpod.telemetry.sdk_metrics import SdkMetrics


class LazyMeterProvider(MeterProvider):
    """Loads the metrics of OpenTelemetry's SDK for the first meter or exporter: that takes a tenth of the start."""

    def __init__(self, resource: Resource, instruments: Instruments) -> None:
        self._resource = resource
        self._instruments = instruments
        self._lock = Lock()
        self._loaded: SdkMetrics | None = None

    def load(self, exporters: Sequence[Any] = ()) -> "SdkMetrics":
        """Load the SDK's provider. `exporters` are given in the first call; they get our own instruments too."""
        with self._lock:
            if self._loaded is None:
                from flowpod.telemetry.sdk_metrics import SdkMetrics

                self._loaded = SdkMetrics(self._resource, exporters, self._instruments)
            return self._loaded

    def get_meter(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Attributes = None
    ) -> Meter:
        return self.load().provider.get_meter(name, version, schema_url, attributes)

    def families(self) -> dict[str, Family]:
        """Return the current readings by name."""
        return {} if self._loaded is None else self._loaded.families()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Export now; the SDK's provider has this method too."""
        return self._loaded is None or self._loaded.provider.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Export for the last time."""
        if self._loaded is not None:
            self._loaded.provider.shutdown()
