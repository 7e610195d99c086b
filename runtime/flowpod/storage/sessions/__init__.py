"""Sessions and their turns: stored, read into a run, listed, exported and deleted.

Recorded runs and their events belong to `runs`, and what differs between databases to `dialects`.
"""
