"""What a hostile file may name: it must not even be imported."""

raise RuntimeError("This module was imported because a file named it.")
