"""A space's data: arrays, streams, and arrays that workers share."""
