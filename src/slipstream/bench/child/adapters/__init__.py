"""One adapter for each contender: a function from a Job to an iterator of (name, tensor).

It is called after its modules were imported and before anything else was done: opening files and parsing headers is
part of what is timed, and so is closing.
"""
