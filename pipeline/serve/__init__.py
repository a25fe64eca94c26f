"""A page for everybody: films are chosen or uploaded, asked, watched and cut in a browser."""
