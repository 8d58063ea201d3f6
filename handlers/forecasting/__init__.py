"""Forecasts: a model carried forward on its own predictions."""
