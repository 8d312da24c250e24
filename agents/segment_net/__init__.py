"""Phase from segment sums: the segments, their linear reconstruction, the network on the scan, simulated scans."""
