"""Stage four: moments in a video file."""
