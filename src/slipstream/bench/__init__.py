"""The benchmark system: loaders against one another, on storages as they are or as clouds have them.

    experiments    what is measured: which contenders, with which settings, on which storage
    storages       where the model's files lie, and how slow that is
    runner         takes the samples in turns, and goes on where a stopped run was
    sampling       one sample: starts a process, has the files made cold, checks that they are, says go
    child          that process: loads once, measures, and proves that every byte is the right one
    records        one JSON line for each sample
    report         tables, charts and a page of them

It uses slipstream as anyone does: by its public API.
"""
