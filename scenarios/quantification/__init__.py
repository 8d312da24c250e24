"""Files and pictures of the columns measured in an image."""
