"""What an instrument that is not the simulator needs around it, whoever makes it: see docs/hardware.md.

`base` is what backends with an absolute corrector share; `rpc_client`, `merlin_control` and `merlin_frames` speak to
instruments on the network, each over a `line`. `safety` stands before every instrument, with `limits`, `watch` and
`audit`; `recording` keeps and resumes sessions; `dry_run` rehearses them; `faults` names what can go wrong. No vendor
in here: those are in `twin.backends`.
"""
