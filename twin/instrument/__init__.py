"""Support for instruments other than the simulator, of any vendor: see docs/hardware.md.

`base` serves backends whose corrector is set in absolute values; `abilities` are the optional parts of an instrument;
`rpc_client`, `merlin_control` and `merlin_frames` speak to instruments on the network, each over a `line`. `safety`
guards every instrument, with `guard`, `limits`, `watch` and `audit`; `recording` and `recorder` keep,
replay and resume sessions; `dry_run` rehearses them; `faults` are the kinds of failure. Vendors: `twin.backends`.
"""
