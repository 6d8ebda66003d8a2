"""Reading requests: bodies, forms, conditions, page tokens."""
