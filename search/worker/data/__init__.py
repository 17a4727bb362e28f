"""The data of a space: arrays, streams, and arrays that workers share."""
