"""Other libraries' secure aggregation, timed in processes and environments of their own."""
