"""A push: reserve a version with its declared files, send the bytes, commit.

`reservation` declares the files and `instructions` say how to send each one. `parts` and `proxied` serve a client while
it sends. `commit` verifies what arrived and publishes the version.
"""
