"""
``python -m sb3_forward.inspect``: what have the layers of a trained model learned?

The command line (``__main__``) loads the *model* and its environment; the model plays, and the *states* that it came to are
sent up its blocks. The *analysis* of each block, with a linear *probe* of its features, becomes *plots* and a *report*.
"""
