"""Image quality: low doses, transfer of riCOM, PRISM against multislice."""
