"""The v1 resources: one module for each, with its router."""
