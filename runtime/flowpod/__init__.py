"""Flowpod: serves an LLM application flow over HTTP."""

__version__ = "0.1.0"
