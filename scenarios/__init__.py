"""Scenario files: one a question that a user would ask."""
