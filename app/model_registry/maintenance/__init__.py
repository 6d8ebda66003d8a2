"""Tasks without a client: the collector and the scrubber. May import `services` and everything below it."""
