"""The stand-ins for the packages `langstudio` and `promptflow`: what flows import from them, and how Python finds it.

Nothing here imports another layer or takes part in a run.
"""
