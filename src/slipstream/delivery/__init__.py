"""Stage five, deliver: whole tensors out, in completion order, in the framework's own type."""
