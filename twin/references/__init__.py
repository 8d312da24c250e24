"""References of a camera: bad pixels, dark level and gain, and the one function that corrects frames by them."""
