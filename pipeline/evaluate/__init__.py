"""Stage three: predictions and figures."""
