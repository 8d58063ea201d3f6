"""Measure every artefact against the unmodified module."""
