"""What a flow is: its parts, its references and the order of its nodes, as pure data.

Nothing here runs code of a flow, opens a socket or needs an event loop; only `load` reads files.
"""
