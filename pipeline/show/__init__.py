"""What is done with moments that were found: cut, list for editors, show on a page, play."""
