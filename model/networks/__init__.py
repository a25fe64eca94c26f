"""The networks, each in a module of its own."""
