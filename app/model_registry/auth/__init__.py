"""Who may do what. Imports only errors."""
