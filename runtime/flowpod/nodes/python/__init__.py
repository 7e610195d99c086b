"""The python and custom_llm kinds: they find a tool in the flow or in a package, and call it with a node's inputs.

What flows import under promptflow's names is in `flowpod.compat`, not here.
"""
