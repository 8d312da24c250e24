"""`stemtwin quantify`: columns of an image."""
