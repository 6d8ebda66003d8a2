"""The OpenAPI document: descriptions of the operations as data, one module for each resource. May not import v1."""
