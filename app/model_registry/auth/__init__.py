"""Who asks, and what they may do. Every use case asks here first. Imports only errors."""
