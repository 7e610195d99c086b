"""What Flowpod stores: sessions with their turns, and recorded runs with their events, in one SQL database.

Nothing here knows HTTP, flows or how a run is executed, and no other layer contains SQL.
"""
