"""Ranges of a blob over HTTP: connections, requests, checks of what comes back, and what is tried again."""
