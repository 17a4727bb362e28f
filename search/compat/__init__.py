"""Other tools' interfaces, for scripts written for them."""
