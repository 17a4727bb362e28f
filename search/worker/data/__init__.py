"""A space's data: arrays, streams, and arrays shared between workers."""
