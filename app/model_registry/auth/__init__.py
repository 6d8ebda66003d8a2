"""Who sends a request, and what they may do. Every use case checks here first. May import `errors` only."""
