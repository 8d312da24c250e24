"""The figures of the founding paper (van Hulst et al. 2026), made from shipped weights and stored comparisons."""
