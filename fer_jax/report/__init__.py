"""What is made of a prediction table: summaries, timelines, pages, annotated videos."""
