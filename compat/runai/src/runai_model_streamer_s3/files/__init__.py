"""Listings of S3, and files out of it."""
