"""What slipstream's own tests and a plugin author's tests share.

    checkpoints     a plain safetensors writer for any dtype, with nothing of slipstream's reader in it
    layouts         the tensor names, shapes and dtypes of known models
    source_contract what every source must do, for a new one's tests to inherit
    files_contract  the part of it about files that are no checkpoints
    source_places   what that needs to know of a storage, puts there, and loads
    process_watch   threads and descriptors of this process, and forked children
    faulty_fs       a FUSE file system that fails, holds reads back or lies about sizes on command
    synthetic       whole checkpoints in such a layout, with reproducible random contents
    uploading       the same, into an object store
    presigning      URLs under which any HTTP client may get what is there
    servers         what the real servers below have in common: free ports, readiness, an end that leaves nothing
    seaweedfs       a real S3 server, over http or https
    signed_s3       S3 requests signed by hand
    azurite         Azure Blob Storage, by Microsoft's emulator
    fake_gcs        an emulator of Google Cloud Storage
    nginx           a fast range server over a directory, which also answers S3 clients
    s3_listings     what an S3 server answers to ListObjectsV2, from files
    certificates    a certificate authority, with good, expired and misplaced certificates for servers
    range_server    an HTTP server of ranges that fails, dawdles and lies on command
    range_faults    what it can do: slowness, broken connections, refusals
    range_lies      and more: answers that are not what was asked for
    proxy           a forward proxy that records what passes
    commanded       the process of its own that such a server runs in

Importing this package loads nothing; import the module you need.
"""
