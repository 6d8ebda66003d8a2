"""The registry's values and rules: frozen, pure, independent of any protocol. May import `utils` and `errors` only."""
