"""Spans, metrics and the local trace store: what the process records about its own work, and the secrets it redacts.

Nothing here knows flows, nodes, protocols or HTTP; callers pass names and values, and only `setup` makes providers.
"""
