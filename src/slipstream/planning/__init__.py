"""Stage three, plan: which ranges to read, how, in what order? Pure functions over frozen values."""
