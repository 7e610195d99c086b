"""promptflow's serving protocol: `/score`, `/feedback`, `/health`, `/version` and `/swagger.json`.

Only behaviour that promptflow's clients depend on lives here; the import names that its flows use are in `compat`.
"""
