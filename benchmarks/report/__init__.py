"""From a results file to tables, figures and a page; see `python -m benchmarks.report --help`."""
