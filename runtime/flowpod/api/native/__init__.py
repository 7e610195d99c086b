"""Flowpod's own endpoints: LangStudio's simple and complete modes, and the stored runs, sessions and traces.

Code that two protocol families share belongs in `api/http`; a rule about runs belongs in `service.py` or below it.
"""
