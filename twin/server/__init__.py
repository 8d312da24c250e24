"""The twin as servers for real client software: one file is one service, `bench.py` the instrument behind them.

A service is a module with `PORT`, its usual port, and `make(bench) -> listener.Service`. Clients share no state but the
`Bench`, one call of which excludes all others.
"""
