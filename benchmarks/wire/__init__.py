"""Speed and agreement over the network: remote calibration, serving, simulators of other projects."""
