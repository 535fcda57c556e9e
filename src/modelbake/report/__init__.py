"""The report: one HTML page on a models folder, which needs nothing but itself."""
