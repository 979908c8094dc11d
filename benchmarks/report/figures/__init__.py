"""The report's figures; each function gives None where the results have nothing to draw."""
