"""Stage 1, device: what is this board, which sensors does it have, and what do they read right now?

``board.Board`` composes one module per hardware source; ``board.this_board()`` is the real machine. Only ``root``
knows where files lie, so the whole stage also runs against a copied tree.
"""
