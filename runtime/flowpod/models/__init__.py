"""The models behind connections: a file for each API, the registry that makes them, and `ask`, which traces one call.

A model takes a request and yields an answer. It knows nothing of nodes, of flows beyond their connections, or of runs.
"""
