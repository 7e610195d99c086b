"""What all protocols share: reading requests, error responses, middleware, event streams, pages and run encoders.

Nothing here knows a particular protocol; what differs between protocols is passed in by `serving.app`.
"""
