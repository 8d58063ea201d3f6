"""Make the recurrent state of an unedited module explicit."""
