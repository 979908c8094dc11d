"""Experiments: named comparisons of whole training runs, which can be interrupted and resumed.

`experiment` defines experiments and arms, `federated` the arm that nearly all of them use, `folder` the files on disk.
`running` and `workers` run the arms, and `catalog` lists the experiments.
"""
