"""Bytes on their way, in and out, through bounded memory."""
