"""What slipstream's own tests and a plugin author's tests share.

    checkpoints   a plain safetensors writer for any dtype, with nothing of slipstream's reader in it
    layouts       the tensor names, shapes and dtypes of known models
    faulty_fs     a FUSE file system that fails, holds reads back or lies about sizes on command
    synthetic     whole checkpoints in such a layout, with reproducible random contents

Importing this package loads nothing; import the module you need.
"""
