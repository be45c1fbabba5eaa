"""Command line, options, inputs, the run folder, the Beam pipeline's assembly, and stores."""
