"""Reads requests: bodies, forms, conditions and page tokens. May not import responses, openapi or v1."""
