"""Listings of Google Cloud Storage, and files out of it."""
