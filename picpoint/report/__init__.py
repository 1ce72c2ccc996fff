"""What does a run look like? Plots, pictures and the page, as one file that loads nothing."""
