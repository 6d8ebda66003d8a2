"""The registry's values and rules: frozen, pure, free of any protocol."""
