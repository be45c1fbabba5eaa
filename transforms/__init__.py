"""One PTransform a file, named by what it does to the stream of dumps."""
