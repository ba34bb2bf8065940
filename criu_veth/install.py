"""Puts the hook where every runtime's configuration can name it, and names it there."""
