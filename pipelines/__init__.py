"""From the command line to artifacts: run directories, stages, progress, report."""
