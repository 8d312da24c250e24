"""Amortised neural posterior: network, particle filter, out-of-distribution test, design effect."""
