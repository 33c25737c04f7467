"""A Franka Research 3 over its own network protocol: the real one, or one that is simulated."""
