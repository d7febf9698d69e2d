"""What a person sees of a run: plots, the page, the terminal's curve and the dashboard's markdown."""
