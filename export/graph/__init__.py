"""Recurrent layers written out as operations that every target can hold."""
