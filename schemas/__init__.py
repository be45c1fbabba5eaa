"""What leaves the pipeline: the records, their closed lists, and what is derived from them."""
