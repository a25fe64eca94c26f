"""The demo and the films that it is made of."""
