"""Loading a flow: reading its folder, checking it, resolving its connections and includes, and packing it for an image.

Nothing here runs or imports a flow's code, or knows what a node does.
"""
