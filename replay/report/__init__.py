"""Reports: one HTML page about runs and studies, its tables beside it, and timelines for the Perfetto viewer."""
