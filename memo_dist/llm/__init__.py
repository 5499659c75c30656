"""Client of generators and executives: requests, endpoints, limits, journal, validation, cost."""
