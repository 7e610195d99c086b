"""What a flow is: its file, its parts and the order in which they may run. Pure data, no input or output but files."""
