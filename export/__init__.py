"""From a policy and a critic in JAX to a directory that a robot can run and check by itself."""
