"""Who calls us: slipstream under the names and interfaces of other projects. Public API of slipstream only."""
