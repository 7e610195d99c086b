"""The files of a flow as their authors write them: models of `flow.dag.yaml` and of connections, with line numbers.

Documents become the parts of `flowpod.flow.model`. What needs the whole flow to be checked belongs to `load`.
"""
