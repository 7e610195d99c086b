"""Runs that are stored with their events: the queue of background runs, the event journal, the leases and the reader.

Nothing here knows a wire protocol or writes SQL: protocols live in `api`, the tables in `storage`.
"""
