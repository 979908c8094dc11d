"""The settings of a run: options, settings file and seeds."""
