"""Peak memory of acquisitions and of streamed reconstruction."""
