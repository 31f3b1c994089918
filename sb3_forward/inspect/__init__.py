"""
Report what the layers of a trained model have learned, by ``python -m sb3_forward.inspect``.

The command line (``__main__``) loads the *model* and its environment. The model plays, and the *states* that it visits are
sent up its blocks. The *analysis* of each block, with a linear *probe* of its features, becomes *plots* and a *report*.
"""
