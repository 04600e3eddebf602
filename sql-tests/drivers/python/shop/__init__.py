"""A Django application for the scenario."""
