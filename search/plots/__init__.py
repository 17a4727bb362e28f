"""Figures of studies: pure functions from a `Study` to Plotly's figures. Each raises NoResult if it has no data."""
