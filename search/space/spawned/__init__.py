"""The folder on the module path of user's processes in which `import search_space` finds the space file."""
