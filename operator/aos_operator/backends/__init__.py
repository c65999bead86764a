"""What runs models for an operator: one protocol, and an adapter for each kind of server."""
