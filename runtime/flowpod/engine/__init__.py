"""One execution of a flow: its request, its task, the scheduling of its nodes, its outputs and its events.

The engine knows flows, nodes and sessions, and nothing of HTTP, of protocols, or of runs that outlive their request.
"""
