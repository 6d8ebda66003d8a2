"""The v1 resources: one module for each, a router in it."""
