"""An archive of films: encoded once, asked as often as one likes."""
