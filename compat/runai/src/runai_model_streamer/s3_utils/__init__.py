"""Object stores: which path is of which, and what may be asked of them."""
