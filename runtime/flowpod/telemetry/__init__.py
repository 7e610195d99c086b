"""OpenTelemetry: how it is set up, and the spans of a run."""
