"""Serving a flow: the composition root, the HTTP server, its worker processes and the set-up of the current process.

Only this package connects the API to a service and its settings; protocols and the execution of flows live below it.
"""
