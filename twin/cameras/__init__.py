"""Pixelated cameras of a scan: expected electrons per pixel to counts, or to single events.

`properties` says what a camera is, `sensor` which of its pixels are bad; `counting`, `integrating` and `event` each
turn expected electrons (N, H, W) into what the camera sends. The calibration's camera is
`ronchigram_camera`.
"""
