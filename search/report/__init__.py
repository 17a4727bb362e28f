"""The report of studies: one HTML file that needs neither network nor server."""
