"""The HTTP API: one folder per family of wire protocols; each parses a request, starts a run and encodes its events.

Nothing here executes flows, stores data or reads the environment, and no protocol is known to the layers below.
"""
