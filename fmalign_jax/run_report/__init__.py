"""What a report shows of a run, and the page that shows it."""
