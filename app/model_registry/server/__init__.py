"""The server process: serving, graceful shutdown, HTTP/1.1, maintenance commands, health check.

May import every room except `cli`.
"""
