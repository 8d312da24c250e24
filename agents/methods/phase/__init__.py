"""Phase of the specimen: centre of mass, single side band, ptychography."""
