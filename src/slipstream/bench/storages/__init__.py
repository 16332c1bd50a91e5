"""Where models lie while they are measured: directories, throttled devices, object stores, servers on loopback."""
