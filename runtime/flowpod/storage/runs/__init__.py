"""Recorded runs: their events, leases, cancel requests, and the session that each one continues.

Executing and queueing runs belongs to `background`, and storing their turns to `sessions`.
"""
