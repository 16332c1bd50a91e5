"""Listings of Azure Blob Storage, and files out of it."""
