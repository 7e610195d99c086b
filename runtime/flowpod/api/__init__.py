"""The wire protocols: a body is parsed, a run is started, its events are encoded. One file a protocol."""
