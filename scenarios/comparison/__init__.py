"""Comparison of controllers over many seeded runs: sweep, ledger of finished runs, figures, page."""
