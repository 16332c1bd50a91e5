"""Files as they are stored, whatever is in them: listed, read as a whole, pulled into a directory.

list ──▶ choose ──▶ look ──▶ lock ──▶ read ──────────────────▶ write ───▶ settle
listing  names      record   lock     streaming.begin_stream   arrivals   arrivals: fsync, rename, record
                                      of plain ranges

listing    list_files, read_file
pull       pull: the story
fetch      what a pull does under the lock
names      which paths are wanted, and which may become files: pure functions
spans      which bytes are there, and which are missing: pure functions
directory  opens what is beneath one directory, and nothing else
lock       one process at a time
record     what is there, by size and ETag: DIRECTORY/.slipstream/pull.jsonl
arrivals   writes what comes, brings it to the disk, and gives whole files their names
"""
