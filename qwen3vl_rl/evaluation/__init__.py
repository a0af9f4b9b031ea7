"""Evaluation: checkpoints and samples -> requests -> predictions -> metrics -> table and report."""
