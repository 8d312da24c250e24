"""Single-atom defects in dark-field images: labelled images under random conditions, a network, its adaptation."""
