"""The description of the API: the OpenAPI document, Swagger UI, and the JSON schemas of a flow's inputs and outputs.

Nothing here runs a flow; the document must describe the endpoints, never define their behaviour.
"""
