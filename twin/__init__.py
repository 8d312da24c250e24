"""The virtual microscope. Importing it registers the Gymnasium environments and loads nothing heavy."""
