"""The registry's values and rules: frozen, pure, independent of any protocol. It imports `utils` and `errors` only."""
