"""Bytes on their way, in and out, through bounded memory.

`object_writer` is the way in. May import `database`, `object_store`, `runtime` and `domain`.
"""
