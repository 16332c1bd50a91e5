"""Stage four, read: many workers move ranges into memory. The only place with threads and buffers."""
