"""The twin as servers for real client software: one file per service, `bench.py` is the instrument behind them.

A service is a module with `PORT`, its usual port, and `make(bench) -> listener.Service`. Clients share only the
`Bench`, which executes one call at a time.
"""
