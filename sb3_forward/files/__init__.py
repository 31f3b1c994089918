"""Write files whole or not at all, and check them before a model takes anything from them."""
