"""What a run is shown as: terminal tables, summary.json, a Perfetto trace and one HTML file."""
