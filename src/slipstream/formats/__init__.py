"""What lies where in a blob: bytes in, frozen values out. No I/O.

    safetensors   header bytes of one blob           -> Header
    shard_index   bytes of a `*.index.json`          -> ShardIndex
    checkpoint    all headers, and the index if any  -> Checkpoint

Everything here reads bytes that strangers wrote; whatever they hold, the answer is a value or a FormatError.
"""
