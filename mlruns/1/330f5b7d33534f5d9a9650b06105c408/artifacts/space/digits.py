import layers
