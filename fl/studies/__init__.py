"""Studies: every combination of some settings' values, each with several seeds, as one table and one figure.

`grid` says which runs there are and `reading` reads them from a file; `running` trains them with the workers and
folders of `fl.experiments`; `tables` and `figure` show the results.
"""
