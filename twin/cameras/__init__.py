"""Pixelated cameras of a scan: expected electrons per pixel to counts, or to single events.

`properties` has the settings of a camera, `sensor` its bad pixels; `counting`, `integrating` and `event` turn expected
electrons (N, H, W) into counts or events. The calibration's camera is `ronchigram_camera`.
"""
