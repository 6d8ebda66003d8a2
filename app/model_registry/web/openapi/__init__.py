"""What the OpenAPI document says of the routes, as data. Imports no route."""
