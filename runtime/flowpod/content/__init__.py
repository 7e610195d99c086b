"""What flows work on: prompt templates, messages, images, files, and the guarded fetch of URLs.

Nothing here knows a protocol, a node or a model service.
"""
