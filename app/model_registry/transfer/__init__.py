"""Bytes on their way, in and out, through bounded memory.

Start in `object_writer`, the way in. May import `database`, `object_store`, `runtime`, `domain` and `errors`.
"""
