"""The settings of a run: their values, the settings file and the seeds."""
